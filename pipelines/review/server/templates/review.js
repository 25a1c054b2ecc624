// Settings and the URL's hash in; what the server says is drawn as text, never as markup; keys and clicks become decisions.
"use strict";
(() => {
  const settings = JSON.parse(document.body.dataset.settings);
  const PAGE = { groups: 50, images: 48 };
  const RETRIES_MS = [300, 1000, 3000];
  const ASK_AGAIN_MS = 400; // while the model is loading
  const VERDICTS = {
    accept: ["accepted", "right"],
    correct: ["corrected", "wrong"],
    rationale_not_visible: ["reason not visible", "wrong"],
    wrong: ["wrong", "wrong"],
    out_of_vocabulary: ["no category fits", "wrong"],
    skip: ["skipped", "plain"],
  };
  const initial = { seen: "open", order: "size", name: "", from: "0", to: "100", q: "" };
  const plain = new Intl.NumberFormat("en");
  const percent = (share) => (share > 0 && share < 0.005 ? "<1%" : share < 1 && share >= 0.995 ? ">99%" : `${Math.round(100 * share)}%`);
  const byId = (id) => document.getElementById(id);
  const form = byId("filters");
  const narrow = matchMedia("(max-width: 60rem)");
  const state = { view: "", group: null, start: 0, items: [], current: 0, details: null, maps: [], map: -1, numOpen: 0, num: 0 };
  let latest = 0; // of the views that were asked for: an answer that comes too late is dropped
  let queue = Promise.resolve();
  let numWaiting = 0;
  let numMoving = 0; // moves to other pictures that are under way
  let subject = null; // number of the picture that an open dialog is about
  let explained = null; // the picture whose evidence the model is asked for

  // --- elements -----------------------------------------------------------------------------------------------------
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const named = (tag, className, text) => {
    const node = make(tag, className, text);
    node.dir = "auto";
    return node;
  };
  const SVG = "http://www.w3.org/2000/svg";
  const draw = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const icon = (name) => {
    const node = draw("svg", { class: "icon", "aria-hidden": "true" });
    node.append(draw("use", { href: `#icon-${name}` }));
    return node;
  };
  const bar = (share) => {
    const node = draw("svg", { class: "bar", viewBox: "0 0 100 5", preserveAspectRatio: "none", "aria-hidden": "true" });
    node.append(draw("rect", { class: "track", width: 100, height: 5 }), draw("rect", { class: "fill", width: 100 * share, height: 5 }));
    return node;
  };
  let toastTimer = 0;
  const toast = (text) => {
    byId("toast").textContent = text;
    byId("toast").hidden = false;
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { byId("toast").hidden = true; }, 4000);
  };
  const trouble = (text) => {
    byId("trouble").textContent = text;
    byId("trouble").hidden = !text;
  };

  // browsers keep pictures for an hour: another set of labels at the same port must not show those of this one
  const pictureAddress = (path) => `${path}?v=${settings.store}`;
  const pictureOf = (number) => {
    const picture = make("img");
    picture.alt = "";
    picture.loading = "lazy";
    picture.decoding = "async";
    picture.addEventListener("load", () => picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) <= 48));
    picture.src = pictureAddress(`/picture/${number}`);
    return picture;
  };

  // --- the server ---------------------------------------------------------------------------------------------------
  const reviewer = () => byId("reviewer").value.trim() || settings.reviewer;
  const ask = async (path, values, body) => {
    const query = values ? `?${new URLSearchParams(values)}` : "";
    const headers = { "X-Ecor-Review": settings.header };
    const answer = await fetch(path + query, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
    const text = await answer.text();
    if (answer.ok) return JSON.parse(text);
    let said = text.trim();
    try { said = JSON.parse(text).error; } catch { /* plain text */ }
    throw Object.assign(new Error(said || `the server answers ${answer.status}`), { refused: true });
  };
  // decisions go one after the other; one whose answer got lost is sent again under the same name, and counts once
  const send = (path, body) => {
    const action = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}-${Math.random()}`;
    const who = reviewer(); // now: the name may be another one when the request's turn comes
    numWaiting += 1;
    const attempt = async (number) => {
      try {
        return await ask(path, null, { reviewer: who, action, ...body });
      } catch (error) {
        if (error.refused || number === RETRIES_MS.length) throw error;
        await new Promise((done) => setTimeout(done, RETRIES_MS[number]));
        return attempt(number + 1);
      }
    };
    const sent = queue.then(() => attempt(0)).finally(() => { numWaiting -= 1; });
    queue = sent.catch(() => undefined);
    return sent.then((answer) => { trouble(""); showProgress(answer.progress); return answer; });
  };
  const say = (error) => trouble(error.refused ? `Not done: ${error.message}` : "The server does not answer. What is not marked is not saved: start it again, open the address that it prints, and repeat the last step.");

  const showProgress = (progress) => {
    if (!progress) return;
    const { num_labels: all, num_done: mine, num_done_by_anyone: any, num_disputed: disputed } = progress;
    byId("progress").value = `${plain.format(mine)} of ${plain.format(all)} reviewed`
      + (any > mine && !settings.sample ? `, ${plain.format(any)} by anyone` : "") + (disputed ? `, ${plain.format(disputed)} disputed` : "");
    byId("progress-bar").setAttribute("width", all ? (100 * mine) / all : 0);
  };

  // --- where we are: the hash ---------------------------------------------------------------------------------------
  const filters = () => Object.fromEntries(Object.keys(initial).map((name) => [name, form.elements[name].value]));
  const changed = () => Object.entries(filters()).filter(([name, value]) => value !== initial[name]);
  const query = () => {
    const values = filters();
    return { reviewer: reviewer(), seen: values.seen, order: values.order, name: values.name, q: values.q, from: values.from / 100, to: values.to / 100 };
  };
  const hashOf = (place) => `#${new URLSearchParams([...changed(), ...Object.entries(place).filter(([name, value]) => value !== null && (name !== "start" || value !== 0)).map(([name, value]) => [name, String(value)])])}`;
  const go = (place, { replace = false } = {}) => {
    const hash = hashOf(place);
    if (replace || hash === (location.hash || "#")) {
      history.replaceState(null, "", hash);
      return show();
    }
    location.hash = hash; // the event shows it
    return Promise.resolve();
  };
  const readHash = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of Object.entries(initial)) {
      form.elements[name].value = asked.get(name) ?? value;
      if (form.elements[name].value !== (asked.get(name) ?? value)) form.elements[name].value = value;
    }
    showRange();
    const number = (name) => (/^\d{1,9}$/.test(asked.get(name) ?? "") ? Number(asked.get(name)) : null);
    return { group: number("group"), start: number("start") ?? 0, open: asked.has("open"), at: number("at") };
  };
  const showRange = () => {
    const { from, to } = form.elements;
    byId("span").value = `${from.value}–${to.value}%`;
    from.parentElement.style.setProperty("--from", `${from.value}%`);
    from.parentElement.style.setProperty("--beyond", `${100 - to.value}%`);
  };
  const show = async () => {
    const place = readHash();
    const mine = (latest += 1);
    try {
      if (settings.sample || place.group !== null) await showImages(place, mine);
      else await showGroups(place, mine);
    } catch (error) {
      if (mine === latest) say(error);
    }
  };

  // --- the list of groups -------------------------------------------------------------------------------------------
  const showGroups = async ({ start, at }, mine) => {
    const found = await ask("/api/groups", { ...query(), start, limit: PAGE.groups });
    if (mine !== latest) return;
    if (!found.groups.length && start > 0) return go({}, { replace: true });
    Object.assign(state, { view: "list", group: null, start, items: found.groups, num: found.num_groups });
    byId("list").hidden = false;
    byId("group").hidden = true;
    showProgress(found.progress);
    byId("count").value = `${plain.format(found.num_groups)} ${found.num_groups === 1 ? "group" : "groups"}, ${plain.format(found.num_labels)} pictures`;
    byId("nothing").hidden = found.num_groups > 0;
    byId("nothing").textContent = filters().seen === "open" && changed().length === 0 ? "Everything is reviewed." : "No group fits all of these filters.";
    byId("groups").replaceChildren(...found.groups.map(groupRow));
    showPager(byId("list-pager"), PAGE.groups);
    const again = found.groups.findIndex((group) => group.number === at);
    focusItem(again >= 0 ? again : Math.min(state.current, Math.max(0, found.groups.length - 1)));
    return undefined;
  };
  const groupRow = (group, place) => {
    const row = make("li", "group-row");
    row.setAttribute("role", "option");
    const examples = make("span", "examples");
    examples.append(...group.examples.map((number) => pictureOf(number)));
    const words = make("span");
    words.append(named("b", "", group.category), make("span", "reason-words", " because of "), named("bdi", "reason-words", group.rationale));
    const done = make("span", "done", group.num_done ? `${plain.format(group.num_done)} reviewed` : "open");
    done.append(bar(group.num_done / group.size));
    row.append(make("span", "size", plain.format(group.size)), examples, words, make("span", "band", `${Math.round(100 * group.low)}–${Math.round(100 * group.high)}%`), done);
    row.addEventListener("click", () => { focusItem(place); openGroup(); });
    return row;
  };
  const openGroup = () => {
    const group = state.items[state.current];
    if (!group) return;
    history.replaceState(null, "", hashOf({ start: state.start, at: group.number }));
    go({ group: group.number, open: 1 });
  };

  // --- one group, or the sample -------------------------------------------------------------------------------------
  const showImages = async ({ group, start, open }, mine) => {
    const path = settings.sample ? "/api/sample" : `/api/group/${group}`;
    let first = start;
    let found = await ask(path, { ...query(), start: first, limit: PAGE.images });
    if (open && found.first_open !== null && (found.first_open < first || found.first_open >= first + PAGE.images)) {
      first = found.first_open - (found.first_open % PAGE.images);
      found = await ask(path, { ...query(), start: first, limit: PAGE.images });
    }
    if (mine !== latest) return;
    Object.assign(state, { view: "group", group, start: found.start, items: found.images, numOpen: found.num_open, num: found.num });
    history.replaceState(null, "", hashOf(settings.sample ? { start: found.start } : { group, start: found.start }));
    byId("list").hidden = true;
    byId("group").hidden = false;
    showProgress(found.progress);
    showTitle(found.group);
    byId("tiles").replaceChildren(...found.images.map(tile));
    byId("no-images").hidden = found.images.length > 0;
    byId("focus").hidden = !found.images.length;
    showPager(byId("pager"), PAGE.images);
    const firstOpen = found.images.findIndex((image) => !image.mine);
    focusItem(Math.max(0, firstOpen));
  };
  const showTitle = (group) => {
    const title = byId("group-title");
    if (!group) {
      title.textContent = `Sample of ${plain.format(state.num)} labels, in random order`;
      return;
    }
    title.replaceChildren(`${plain.format(state.num)} × `, named("b", "", group.category), " because of ", named("bdi", "", group.rationale), `, ${Math.round(100 * group.low)}–${Math.round(100 * group.high)}%`);
    showOpen();
  };
  const showOpen = () => {
    if (settings.sample) return;
    byId("accept-group").textContent = state.numOpen === state.num ? `Accept all ${plain.format(state.num)}` : `Accept the other ${plain.format(state.numOpen)}`;
    document.querySelector('[data-act="accept-group"]').disabled = !state.numOpen || filters().seen === "disputed";
  };
  const badge = (image) => {
    if (!image.mine) return null;
    const [words, kind] = VERDICTS[image.mine.verdict];
    const node = make("span", `badge ${kind}`);
    if (kind !== "plain") node.append(icon(kind));
    node.append(words + (image.mine.note ? " ✎" : ""));
    return node;
  };
  const tile = (image, place) => {
    const node = make("li", "tile");
    node.setAttribute("role", "option");
    const frame = make("div", "frame");
    const picture = pictureOf(image.number);
    picture.addEventListener("error", () => {
      const missing = make("p", "missing");
      missing.append(icon("missing"));
      picture.replaceWith(missing);
    });
    frame.append(picture);
    node.append(frame);
    if (settings.sample) {
      const words = make("p", "names-of");
      words.append(named("b", "", image.category), " ", named("bdi", "", image.rationale));
      node.append(words);
    }
    const line = make("p");
    line.append(make("span", "", percent(image.confidence)), make("span", "", image.others.length ? `+${image.others.length}` : ""));
    node.append(line);
    node.addEventListener("click", () => focusItem(place));
    mark(node, image);
    return node;
  };
  const mark = (node, image) => {
    node.querySelector(".badge")?.remove();
    const said = badge(image);
    if (said && node.classList.contains("pending")) said.append(", saving…");
    if (said) node.append(said);
    node.classList.toggle("decided", Boolean(image.mine));
    node.setAttribute("aria-label", `${image.category}, ${image.rationale}, ${percent(image.confidence)}${image.mine ? `, ${VERDICTS[image.mine.verdict][0]}` : ""}`);
  };
  const update = (images) => {
    for (const image of images) {
      const place = state.view === "group" ? state.items.findIndex((each) => each.number === image.number) : -1;
      if (place < 0) continue;
      state.items[place] = image;
      byId("tiles").children[place].classList.remove("pending");
      mark(byId("tiles").children[place], image);
      if (place === state.current) showSaid(image);
    }
  };

  const showPager = (pager, limit) => {
    pager.hidden = state.num <= limit;
    pager.querySelector("output").value = `${plain.format(state.start + 1)}–${plain.format(Math.min(state.num, state.start + limit))} of ${plain.format(state.num)}`;
    pager.querySelector('[data-act="previous"]').disabled = state.start === 0;
    pager.querySelector('[data-act="next"]').disabled = state.start + limit >= state.num;
  };
  const turn = (step) => {
    const limit = state.view === "list" ? PAGE.groups : PAGE.images;
    const start = Math.max(0, state.start + step * limit);
    if (start >= state.num || start === state.start) return;
    state.current = 0;
    go(state.view === "list" || settings.sample ? { start } : { group: state.group, start }, { replace: true });
  };

  // --- the item in focus --------------------------------------------------------------------------------------------
  const nodes = () => Array.from((state.view === "list" ? byId("groups") : byId("tiles")).children);
  const focusItem = (place) => {
    const all = nodes();
    state.current = place;
    all.forEach((node, index) => {
      node.classList.toggle("current", index === place);
      node.setAttribute("aria-selected", String(index === place));
      node.tabIndex = index === place ? 0 : -1;
    });
    const node = all[place];
    if (!node) return;
    const typing = document.activeElement && document.activeElement.matches("input, select, textarea");
    if (!typing && !document.querySelector("dialog[open]")) {
      node.focus({ preventScroll: true });
      if (state.view === "group" && narrow.matches) showFocusCard();
      else if (place > 0 || scrollY > 0) node.scrollIntoView({ block: "nearest" });
    }
    if (state.view === "group") showFocus(state.items[place]);
  };
  // on a phone, the pictures of the group are below the one in focus
  const showFocusCard = () => {
    const top = byId("focus").getBoundingClientRect().top;
    if (top < 0 || top > innerHeight / 2) byId("focus").scrollIntoView({ block: "start" });
  };
  let detailTimer = 0;
  const showFocus = (image) => {
    if (!image) return;
    state.map = -1;
    state.details = null;
    explained = null;
    showMaps([]);
    showNote("");
    showPicture(image, pictureAddress(`/picture/${image.number}`));
    byId("category").textContent = image.category;
    byId("rationale").textContent = image.rationale;
    byId("confidence").textContent = percent(image.confidence);
    byId("source").textContent = image.key;
    showSaid(image);
    clearTimeout(detailTimer);
    detailTimer = setTimeout(() => { showDetails(image); prefetch(); }, 120);
  };
  const showPicture = (image, address) => {
    const picture = byId("picture");
    byId("missing").hidden = true;
    picture.hidden = false;
    picture.alt = `The picture that is labelled ${image.category}`;
    picture.src = address;
  };
  byId("picture").addEventListener("load", (event) => event.target.classList.toggle("small", Math.max(event.target.naturalWidth, event.target.naturalHeight) <= 48));
  byId("picture").addEventListener("error", async () => {
    const image = state.items[state.current];
    const picture = byId("picture");
    if (!image) return;
    picture.hidden = true;
    byId("missing").hidden = false;
    const reason = byId("missing").querySelector(".reason");
    reason.textContent = "";
    try {
      const answer = await fetch(pictureAddress(`/picture/${image.number}`));
      if (image.number === state.items[state.current]?.number && !answer.ok) reason.textContent = await answer.text();
    } catch { /* the next step says that the server is gone */ }
  });
  const showDetails = async (image) => {
    let details;
    try {
      details = await ask(`/api/label/${image.number}`, { reviewer: reviewer() });
    } catch (error) {
      say(error);
      return;
    }
    if (!isInFocus(image) || state.details === image.number) return;
    state.details = image.number;
    if (state.map < 0 && byId("missing").hidden) {
      const large = new Image();
      large.addEventListener("load", () => { if (state.items[state.current]?.number === image.number && state.map < 0) showPicture(image, large.src); });
      large.src = pictureAddress(`/picture/${image.number}/large`);
    }
    byId("source").title = details.source;
    for (const [kind, name] of [["rationales", "rationale"], ["categories", "category"]]) {
      byId(kind).replaceChildren(...details[kind].map((entry) => {
        const share = Math.min(1, Math.exp(entry.log_prob));
        const line = make("li");
        line.append(named("bdi", "name", entry[name]), make("span", "percent", percent(share)), bar(share));
        return line;
      }));
    }
    showMaps(details.maps.map((words, place) => ({ words, address: pictureAddress(`/map/${image.number}/${place}`), method: details.method })));
  };
  const isInFocus = (image) => state.view === "group" && state.items[state.current]?.number === image.number;
  const showNote = (text) => {
    byId("evidence-note").textContent = text;
    byId("evidence-note").hidden = !text;
  };
  const showMaps = (maps) => {
    state.maps = maps;
    byId("scale").hidden = !maps.length && !settings.hasModel;
    byId("maps").replaceChildren(...maps.map(({ words, address, method }, place) => {
      const line = make("li");
      const picture = make("img");
      picture.loading = "lazy";
      picture.alt = `Map of the evidence for ${words}, by ${method}`;
      picture.src = address;
      line.append(picture, named("span", place ? "" : "of-category", words));
      line.addEventListener("click", () => showMap(place));
      return line;
    }));
  };
  const showMap = (place) => {
    const image = state.items[state.current];
    state.map = place >= state.maps.length || place === state.map ? -1 : place;
    Array.from(byId("maps").children).forEach((node, index) => node.classList.toggle("shown", index === state.map));
    showPicture(image, state.map < 0 ? pictureAddress(`/picture/${image.number}/large`) : state.maps[state.map].address);
  };
  const showEvidence = async () => {
    const image = state.view === "group" ? state.items[state.current] : null;
    if (!image) return;
    if (state.details !== image.number) {
      clearTimeout(detailTimer);
      await showDetails(image); // whether the labels hold maps
      if (state.details !== image.number || !isInFocus(image)) return;
      prefetch();
    }
    if (state.maps.length) showMap(state.map + 1);
    else if (settings.hasModel) await askModel(image);
    else toast("The labels hold no maps of this picture: score with --explain, or review with --model");
  };
  // the first map loads the model; what comes after the reviewer has moved on is dropped
  const askModel = async (image) => {
    if (explained?.number === image.number) return;
    const mine = { number: image.number };
    explained = mine;
    showNote("Asking the model where the evidence is…");
    try {
      let found = await ask(`/api/evidence/${image.number}`, { start: 1 });
      while (found.state === "loading" && explained === mine) {
        showNote(found.note);
        await new Promise((done) => setTimeout(done, ASK_AGAIN_MS));
        if (explained === mine) found = await ask(`/api/evidence/${image.number}`, {});
      }
      if (explained !== mine) return;
      showNote(found.note);
      if (!found.maps.length) return;
      showMaps(found.maps.map((words, place) => ({ words, address: `/model-map/${image.number}/${place}`, method: found.method })));
      showMap(0);
    } catch (error) {
      if (explained !== mine) return;
      showNote(error.refused ? error.message : "");
      if (!error.refused) say(error);
    } finally {
      if (explained === mine) explained = null;
    }
  };
  const prefetch = () => {
    const next = state.items[state.current + 1];
    if (next) new Image().src = pictureAddress(`/picture/${next.number}/large`);
  };
  const showSaid = (image) => {
    const lines = [];
    const line = (said, who) => {
      const [words, kind] = VERDICTS[said.verdict];
      const node = make("li", kind);
      if (kind !== "plain") node.append(icon(kind));
      node.append(named("bdi", "", who), `: ${words}`);
      if (said.after) {
        node.append(" → ");
        [said.after.category, ...said.after.rationales].forEach((name, place) => {
          if (place) node.append(place === 1 ? " because of " : ", ");
          node.append(named("bdi", "", name));
          if (said.after.new_names.includes(name)) node.append(" ", make("span", "new", "new"));
        });
      }
      if (said.note) node.append(" · ", named("bdi", "", said.note));
      lines.push(node);
    };
    if (image.mine) line(image.mine, "you");
    for (const other of image.others) line(other, other.reviewer);
    byId("said").replaceChildren(...lines);
    for (const button of document.querySelectorAll(".act")) button.classList.toggle("chosen", image.mine?.verdict === button.dataset.act);
  };

  // --- decisions ----------------------------------------------------------------------------------------------------
  const decide = async (verdict, more = {}) => {
    const image = state.view === "group" ? state.items[state.current] : null;
    if (!image) return;
    const body = { verdict, numbers: [image.number], note: image.mine?.note ?? "", ...more };
    const before = image.mine;
    const node = byId("tiles").children[state.current];
    image.mine = { verdict, after: null, note: body.note };
    node.classList.add("pending");
    mark(node, image);
    if (!before) state.numOpen -= 1;
    showOpen();
    const sent = send("/api/decide", body);
    const group = state.group;
    if (more.stay) showSaid(image);
    else advance(sent, group);
    try {
      update((await sent).images);
    } catch (error) {
      image.mine = before;
      node.classList.remove("pending");
      mark(node, image);
      say(error);
      if (state.group === group) show();
    }
  };
  // to the next open picture of the page; else, once all is saved, to the next page or group
  const advance = (sent, group) => {
    const isOpen = (image) => !image.mine;
    const after = state.items.findIndex((image, place) => place > state.current && isOpen(image));
    const any = after >= 0 ? after : state.items.findIndex(isOpen);
    if (any >= 0) focusItem(any);
    else whileMoving(async () => {
      try { await sent; } catch { return; }
      if (state.group !== group || state.view !== "group") return;
      if (state.numOpen > 0) await go(settings.sample ? { open: 1 } : { group, open: 1 }, { replace: true });
      else if (settings.sample) await finishSample();
      else await nextGroup("Group reviewed.");
    });
  };
  // a key that comes before the next pictures are on the screen must not decide about those that were there
  const whileMoving = async (work) => {
    numMoving += 1;
    try { return await work(); } finally { numMoving -= 1; }
  };
  const finishSample = () => {
    toast(`The sample is reviewed. ${settings.nextSteps.join(" ")}`);
    return show();
  };
  const nextGroup = (words) => whileMoving(async () => {
    let next = null;
    try { ({ next } = await ask(`/api/next/${state.group}`, query())); } catch (error) { say(error); return; }
    if (words) toast(words);
    if (next === null) {
      if (!words) toast("No other group has open pictures.");
      state.current = 0;
      await go({}, { replace: true });
    } else await go({ group: next, open: 1 }, { replace: true });
  });
  const acceptGroup = async () => {
    if (settings.sample) {
      toast("A sample is judged picture by picture.");
      return;
    }
    if (filters().seen === "disputed") {
      toast("Pictures on which reviewers differ are judged one by one.");
      return;
    }
    const inList = state.view === "list";
    const group = inList ? state.items[state.current] : null;
    if (inList && !group) return;
    const number = inList ? group.number : state.group;
    const num = inList ? group.size - group.num_done : state.numOpen;
    if (!num) {
      toast("The group has no open pictures.");
      return;
    }
    const { name, q, from, to } = query();
    numMoving += 1;
    try {
      await queue;
      const answer = await send("/api/decide", { verdict: "accept", group: number, num_expected: num, filter: { name, q, from, to } });
      const words = `Accepted ${plain.format(answer.num)} pictures. Undo with u.`;
      if (inList) {
        toast(words);
        await show();
      } else if (state.group === number) await nextGroup(words);
    } catch (error) {
      say(error);
      show();
    } finally {
      numMoving -= 1;
    }
  };
  const undo = async () => {
    try {
      await queue;
      const answer = await send("/api/undo", {});
      toast(answer.num ? `Took back ${plain.format(answer.num)} ${answer.num === 1 ? "decision" : "decisions"}.` : "Nothing is left to take back: decide again instead.");
      await show();
      if (state.view === "group") {
        const place = state.items.findIndex((image) => image.number === answer.numbers[0]);
        if (place >= 0) focusItem(place);
      }
    } catch (error) {
      say(error);
    }
  };
  const writeTable = async () => {
    try {
      await queue;
      const answer = await send("/api/table", {});
      toast(`Wrote ${plain.format(answer.num_rows)} decisions: ${answer.path}`);
    } catch (error) {
      say(error);
    }
  };

  // --- dialogs ------------------------------------------------------------------------------------------------------
  const openDialog = (id) => { byId(id).showModal(); };
  for (const dialog of document.querySelectorAll("dialog")) {
    for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => { const node = nodes()[state.current]; if (node) node.focus({ preventScroll: true }); });
  }
  // completion: `pick` gets a name and whether it is known
  const combobox = (input, list, kind, pick) => {
    let names = [];
    let known = false;
    let active = -1;
    let asked = 0;
    let timer = 0;
    let listed = null; // the text that the names belong to
    let isTaking = false;
    const options = () => (input.value.trim() && !known ? [...names, null] : names);
    const close = () => {
      list.hidden = true;
      active = -1;
      input.setAttribute("aria-expanded", "false");
      input.removeAttribute("aria-activedescendant");
    };
    const show = () => {
      const all = options();
      list.replaceChildren(...all.map((name, place) => {
        const node = make("li");
        node.id = `${list.id}-${place}`;
        node.setAttribute("role", "option");
        node.setAttribute("aria-selected", String(place === active));
        node.append(named("bdi", "", name ?? input.value.trim()));
        if (name === null) node.append(make("span", "new", "new name"));
        node.addEventListener("pointerdown", (event) => { event.preventDefault(); active = place; take(); });
        return node;
      }));
      list.hidden = !all.length;
      input.setAttribute("aria-expanded", String(!list.hidden));
      if (active >= 0 && list.children[active]) {
        input.setAttribute("aria-activedescendant", list.children[active].id);
        list.children[active].scrollIntoView({ block: "nearest" });
      } else input.removeAttribute("aria-activedescendant");
    };
    const load = async () => {
      const mine = (asked += 1);
      const text = input.value;
      try {
        const found = await ask("/api/names", { kind, q: text, label: state.items[state.current]?.number ?? "" });
        if (mine !== asked) return;
        listed = text;
        names = found.names;
        known = found.known;
        active = input.value.trim() ? 0 : -1;
        show();
      } catch (error) {
        say(error);
      }
    };
    const take = (typed = false) => {
      const name = !typed && active >= 0 ? options()[active] ?? input.value.trim() : input.value.trim();
      asked += 1;
      close();
      pick(name);
    };
    input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(load, 60); });
    input.addEventListener("focus", load);
    input.addEventListener("blur", close);
    input.addEventListener("keydown", async (event) => {
      const all = options();
      if ((event.key === "ArrowDown" || event.key === "ArrowUp") && all.length) {
        event.preventDefault();
        active = event.key === "ArrowDown" ? (active + 1) % all.length : (active <= 0 ? all.length : active) - 1;
        show();
      } else if (event.key === "Escape" && !list.hidden) {
        event.preventDefault();
        event.stopPropagation();
        close();
      } else if (event.key === "Enter") {
        event.preventDefault();
        if (event.repeat || isTaking) return;
        clearTimeout(timer);
        if (!event.shiftKey && input.value.trim() && input.value !== listed) {
          isTaking = true;
          try { await load(); } finally { isTaking = false; }
          if (input.value !== listed) return; // typed on, or no answer: these names belong to another text
        }
        take(event.shiftKey);
      } else if (event.key === "Tab" && input.value.trim() && active >= 0 && !list.hidden && kind === "rationale") {
        event.preventDefault();
        take();
      }
    });
  };
  let tags = [];
  const showTags = () => {
    byId("tags").replaceChildren(...tags.map((name, place) => {
      const node = make("li");
      const remove = make("button", "", "×");
      remove.type = "button";
      remove.setAttribute("aria-label", `Remove ${name}`);
      remove.addEventListener("click", () => { tags.splice(place, 1); showTags(); byId("correct-rationale").focus(); });
      node.append(named("bdi", "", name), remove);
      return node;
    }));
  };
  const addTag = (name) => {
    if (name && !tags.includes(name)) tags.push(name);
    byId("correct-rationale").value = "";
    showTags();
  };
  const isSubject = () => {
    const same = state.view === "group" && state.items[state.current]?.number === subject;
    if (!same) toast("The picture has changed meanwhile: nothing was saved. Open it again.");
    return same;
  };
  const openCorrect = () => {
    const image = state.view === "group" ? state.items[state.current] : null;
    if (!image) return;
    const after = image.mine?.after;
    tags = after ? [...after.rationales] : [];
    showTags();
    byId("correct-category").value = after ? after.category : image.category;
    byId("correct-rationale").value = "";
    subject = image.number;
    openDialog("correct");
    byId("correct-category").focus();
    byId("correct-category").select();
  };
  const saveCorrection = () => {
    addTag(byId("correct-rationale").value.trim());
    const category = byId("correct-category").value.trim();
    if (!category) {
      byId("correct-category").focus();
      return;
    }
    byId("correct").close();
    if (isSubject()) decide("correct", { category, rationales: tags });
  };
  combobox(byId("correct-category"), byId("category-names"), "category", (name) => {
    byId("correct-category").value = name;
    byId("correct-rationale").focus();
  });
  combobox(byId("correct-rationale"), byId("rationale-names"), "rationale", (name) => {
    if (name) addTag(name);
    else saveCorrection();
  });
  byId("correct-rationale").addEventListener("keydown", (event) => {
    if (event.key !== "Backspace" || event.target.value) return;
    tags.pop();
    showTags();
  });
  byId("correct").querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); saveCorrection(); });
  const openNote = () => {
    const image = state.view === "group" ? state.items[state.current] : null;
    if (!image) return;
    subject = image.number;
    byId("note-text").value = image.mine?.note ?? "";
    openDialog("note");
    byId("note-text").focus();
  };
  const saveNote = () => {
    const image = state.items[state.current];
    const note = byId("note-text").value.trim();
    byId("note").close();
    if (!isSubject()) return;
    const said = image.mine;
    const names = said?.after ? { category: said.after.category, rationales: said.after.rationales } : {};
    decide(said?.verdict ?? "skip", { note, stay: true, ...names });
  };
  byId("note").querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); saveNote(); });
  byId("note-text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    saveNote();
  });

  // --- keys and clicks ----------------------------------------------------------------------------------------------
  const columns = () => {
    const all = nodes();
    const top = all[0]?.offsetTop;
    const next = all.findIndex((node) => node.offsetTop !== top);
    return next < 0 ? all.length : next;
  };
  const move = (step) => {
    const place = state.current + step;
    if (place >= 0 && place < state.items.length) focusItem(place);
  };
  const acts = {
    accept: () => decide("accept"),
    rationale_not_visible: () => decide("rationale_not_visible"),
    wrong: () => decide("wrong"),
    out_of_vocabulary: () => decide("out_of_vocabulary"),
    skip: () => decide("skip"),
    correct: openCorrect,
    note: openNote,
    undo,
    evidence: showEvidence,
    "accept-group": acceptGroup,
    "next-group": () => { if (state.view === "group" && !settings.sample) nextGroup(""); },
    back: () => { if (state.view === "group" && !settings.sample) { const at = state.group; go({ at }); } },
    open: () => { if (state.view === "list") openGroup(); },
    previous: () => turn(-1),
    next: () => turn(1),
    help: () => { openDialog("help"); byId("help-title").focus(); },
    table: writeTable,
    search: () => {
      if (state.view !== "list") return;
      byId("filter-box").open = true;
      form.elements.q.focus();
    },
    reviewer: () => { byId("reviewer").focus(); byId("reviewer").select(); },
    up: () => move(state.view === "list" ? -1 : -columns()),
    down: () => move(state.view === "list" ? 1 : columns()),
    left: () => move(-1),
    right: () => move(1),
    first: () => focusItem(0),
    last: () => focusItem(Math.max(0, state.items.length - 1)),
  };
  const keys = {
    a: "accept", " ": "accept", v: "rationale_not_visible", c: "correct", w: "wrong", x: "out_of_vocabulary", s: "skip", n: "note",
    e: "evidence", u: "undo", A: "accept-group", G: "next-group", g: "next-group", Enter: "open", Escape: "back", Backspace: "back",
    "[": "previous", "]": "next", PageUp: "previous", PageDown: "next", Home: "first", End: "last", "?": "help", "/": "search", T: "table", r: "reviewer",
    ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right", k: "up", j: "down", h: "left", l: "right",
  };
  const deciding = new Set(["accept", "rationale_not_visible", "wrong", "out_of_vocabulary", "skip", "correct", "note", "accept-group", "next-group"]);
  const perform = (act) => {
    if (!numMoving || !deciding.has(act)) acts[act]();
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches?.("input, select, textarea");
    if (typing) {
      if (event.key === "Escape" || (event.key === "Enter" && event.target.matches("input"))) {
        event.preventDefault();
        event.target.blur();
        focusItem(Math.min(state.current, Math.max(0, state.items.length - 1)));
      }
      return;
    }
    if (event.target.matches?.("button, summary, a") && (event.key === "Enter" || event.key === " ")) return;
    const act = keys[event.key];
    if (!act || (event.repeat && !["up", "down", "left", "right"].includes(act))) return;
    event.preventDefault();
    perform(act);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-act]");
    if (button) perform(button.dataset.act);
  });
  let filterTimer = 0;
  form.addEventListener("input", (event) => {
    // the two ends of the range push each other, so that they never cross
    const { from, to } = form.elements;
    if (Number(from.value) > Number(to.value)) {
      if (event.target === from) to.value = from.value;
      else from.value = to.value;
    }
    showRange();
    state.current = 0;
    clearTimeout(filterTimer);
    filterTimer = setTimeout(() => go({}, { replace: true }), 200);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => {
    Object.entries(initial).forEach(([name, value]) => { form.elements[name].value = value; });
    go({}, { replace: true });
  }));
  addEventListener("hashchange", show);
  addEventListener("beforeunload", (event) => { if (numWaiting) event.preventDefault(); });
  byId("filter-box").open = !narrow.matches;
  const remembered = "ecor-review-reviewer";
  byId("reviewer").value = sessionStorage.getItem(remembered) ?? settings.reviewer;
  byId("reviewer").maxLength = settings.longestName;
  byId("reviewer").addEventListener("change", () => {
    sessionStorage.setItem(remembered, reviewer());
    show();
  });
  if (settings.sample && !location.hash) history.replaceState(null, "", "#open=1");
  show();
})();
