"""What infra/ and ray_cluster.yaml say is what Ray, KubeRay, Kubernetes and MLflow take, of the pinned versions.

Rendering is kustomize's own (`kubectl kustomize`), where a kubectl is there. Not checked: that images can be pulled,
that PromQL parses (no promtool here), the custom resources of the Prometheus operator beyond their rules.

Covers: `pipelines.runtime.prometheus`.
"""

import copy
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import mlflow
import pyarrow as pa
import pytest
import yaml
from jsonschema import Draft202012Validator

from pipelines.__main__ import _parse_command
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.pipeline_file import parse_pipeline
from pipelines.config.stages import ScoreConfig
from pipelines.config.training import TrainConfig
from pipelines.runtime.prometheus import METRICS
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.listing import list_images

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
OVERLAYS = ("cpu", "gpu")
KUBERNETES = "1.33"
CUSTOM = {"ray.io/v1", "monitoring.coreos.com/v1"}
KUSTOMIZE = {"kustomize.config.k8s.io/v1beta1", "kustomize.config.k8s.io/v1alpha1"}
Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each is not None]


def manifests() -> list[Path]:
    """Files that hold objects of Kubernetes, without those that are only parts."""
    found = [*(INFRA / "kuberay").rglob("*.yaml"), *(INFRA / "mlflow" / "kubernetes").rglob("*.yaml")]
    found += (INFRA / "monitoring").glob("*.yaml")
    return sorted(path for path in found if isinstance(documents(path)[0], dict) and "kind" in documents(path)[0])


def core_objects() -> list[tuple[str, Document]]:
    return [
        (f"{path.relative_to(INFRA)}: {each['kind']}", each)
        for path in manifests()
        for each in documents(path)
        if each["apiVersion"] not in CUSTOM | KUSTOMIZE
    ]


@cache
def rendered(folder: str) -> tuple[Document, ...]:
    """What `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this machine: overlays are not rendered, only their parts are checked")
    done = subprocess.run(["kubectl", "kustomize", str(INFRA / folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(each for each in yaml.safe_load_all(done.stdout) if each is not None)


def of_kind(objects: tuple[Document, ...], kind: str) -> list[Document]:
    return [each for each in objects if each["kind"] == kind]


# Versions


def locked(name: str) -> str:
    (found,) = re.findall(rf"^{re.escape(name)}==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    return str(found)


def test_the_image_has_the_python_and_the_packages_of_the_lock():
    dockerfile = (INFRA / "Dockerfile").read_text()
    makefile = (ROOT / "Makefile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (python,) = set(re.findall(r"ARG PYTHON_VERSION=(\S+)", dockerfile))
    assert set(re.findall(r"--python-version (\S+)", makefile)) == {python}, "the lock is made for the image's Python"
    assert project["requires-python"] == f">={python}"
    assert "uv pip install -r requirements.lock" in dockerfile
    assert "uv pip install --no-deps ." in dockerfile, "nothing but what is locked"
    assert locked("ray") == version("ray"), "what the tests run is what the image holds"
    assert locked("mlflow") == version("mlflow")
    assert f"ecor:{project['version']}" in dockerfile
    copied = {word for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.M) for word in line.split()[:-1]}
    assert all((ROOT / each).exists() for each in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied


def test_the_image_is_not_roots_and_names_one_version_of_everything():
    dockerfile = (INFRA / "Dockerfile").read_text()
    users = re.findall(r"^USER (.+)$", dockerfile, re.M)
    assert users == ["1000:1000"]
    assert dockerfile.index("USER 1000") < dockerfile.index("ENTRYPOINT")
    images = re.findall(r"^(?:FROM|COPY --from=)\s*(\S+:\S+)", dockerfile, re.M)
    assert images
    assert not [each for each in images if each.endswith(":latest")]


def test_every_image_is_pinned_and_ecors_is_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for path in [*INFRA.rglob("*.yaml"), ROOT / "ray_cluster.yaml"]:
        for image in re.findall(r"\bimage: ([^\s{]+)", path.read_text()):
            name, _, tag = image.partition(":")
            if name.endswith("/ecor"):
                assert tag in ("", project["version"]), path  # kustomize sets the tag
            else:
                assert tag and tag != "latest", (path, image)
            if name.endswith("/mlflow"):
                assert tag == f"v{locked('mlflow')}-full", path
    for overlay in OVERLAYS:
        (image,) = yaml.safe_load((INFRA / "kuberay/overlays" / overlay / "kustomization.yaml").read_text())["images"]
        assert image["newTag"] == project["version"]


# The cluster launcher


@pytest.fixture(scope="module")
def launcher() -> Document:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def prepared(config: Document) -> Document:
    from ray.autoscaler._private.util import prepare_config, validate_config

    done = prepare_config(copy.deepcopy(config))
    validate_config(done)
    return done


def test_ray_takes_the_cluster_launchers_file(launcher):
    done = prepared(launcher)
    types = done["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}, "the head takes no work"
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["cpu"]["min_workers"] >= 1
    assert "--num-cpus=0" in done["head_start_ray_commands"][1]
    assert not [line for line in done["worker_start_ray_commands"] if "--head" in line]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(max_worker=3),
        lambda c: c["available_node_types"]["gpu"].update(min_worker=1),
        lambda c: c["available_node_types"]["gpu"].update(resources={"GPU": "one"}),
        lambda c: c["docker"].update(imag="x"),
        lambda c: c.pop("head_node_type"),
        lambda c: c["available_node_types"]["cpu"].update(min_workers=9, max_workers=99) or c.update(max_workers=1),
    ],
)
def test_ray_refuses_a_spoilt_one(launcher, spoil):
    spoilt = copy.deepcopy(launcher)
    spoil(spoilt)
    with pytest.raises(Exception):  # noqa: B017 - jsonschema's, or Ray's own ValueError
        prepared(spoilt)


def test_containers_read_their_variables_where_the_launcher_puts_them(launcher):
    from ray.autoscaler.sdk import get_docker_host_mount_location

    (remote,) = launcher["file_mounts"]
    place = f"{get_docker_host_mount_location(launcher['cluster_name'])}{remote}"
    assert f"--env-file={place}" in launcher["docker"]["run_options"]
    dockerfile = (INFRA / "Dockerfile").read_text()
    assert "HOME=/home/ecor" in dockerfile, "the launcher asks the image where home is"
    assert "/etc/profile.d/" in dockerfile, "login shells forget the image's PATH"
    for needed in ("rsync", "wget", "procps"):
        assert needed in dockerfile


def test_what_the_launcher_mounts_is_made_from_an_example_and_never_committed(launcher):
    for local in launcher["file_mounts"].values():
        assert (ROOT / f"{local}.example").is_file()
        assert local in (ROOT / ".gitignore").read_text().splitlines()
    for path in [*INFRA.rglob("*.example"), INFRA / "mlflow/env.example"]:
        for name, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.M):
            assert not value or not re.search(r"PASSWORD|TOKEN|SECRET", name), f"{path} holds a secret: {name}"


# KubeRay


@cache
def crd(kind: str) -> Document:
    path = ROOT.parent / "shared/data/kuberay" / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip("KubeRay's definitions are not on this machine (../shared/data/kuberay)")
    (stored,) = [each for each in yaml.safe_load(path.read_text())["spec"]["versions"] if each["name"] == "v1"]
    schema = _strict(stored["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    return schema


def _strict(schema: Any) -> Any:
    """Unknown fields are errors, as `kubectl apply --validate=strict` has it."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    done = {name: _strict(value) for name, value in schema.items()}
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and not keeps_unknown:
        done["additionalProperties"] = False
    return done


def errors_of(each: Document) -> list[str]:
    found = Draft202012Validator(crd(each["kind"])).iter_errors(each)
    return [f"{each['metadata']['name']}: {'/'.join(map(str, error.path))}: {error.message}" for error in found]


def ray_objects(overlay: str) -> list[Document]:
    return [each for each in rendered(f"kuberay/overlays/{overlay}") if each["apiVersion"] == "ray.io/v1"]


def ray_files() -> Iterator[Document]:
    for path in manifests():
        yield from (each for each in documents(path) if each["apiVersion"] == "ray.io/v1")


@pytest.mark.slow
def test_the_files_of_ray_fit_kuberays_definitions():
    found = list(ray_files())
    assert {each["metadata"]["name"] for each in found} == {
        *("ecor", "ecor-shard", "ecor-train", "ecor-score", "ecor-pipeline")
    }
    assert not [error for each in found for error in errors_of(each)]


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_makes_of_them_fits_too(overlay):
    assert not [error for each in ray_objects(overlay) for error in errors_of(each)]


@pytest.mark.parametrize(
    ("path", "name"),
    [("spec", "rayVersoin"), ("spec/headGroupSpec/template/spec", "container"), ("spec/autoscalerOptions", "versions")],
)
def test_a_misspelt_field_is_found(path, name):
    (cluster,) = [copy.deepcopy(each) for each in ray_files() if each["kind"] == "RayCluster"]
    place = cluster
    for part in path.split("/"):
        place = place[part]
    place[name] = "x"
    assert any(name in error for error in errors_of(cluster))


def specs(overlay: str) -> list[Document]:
    """Every spec of a cluster."""
    objects = ray_objects(overlay)
    (shared,) = [each["spec"] for each in objects if each["kind"] == "RayCluster"]
    return [shared, *(each["spec"]["rayClusterSpec"] for each in objects if each["kind"] == "RayJob")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_job_has_a_cluster_of_the_same_kind_for_itself(overlay):
    first, *others = specs(overlay)
    assert len(others) == 4
    assert all(each == first for each in others)
    assert first["rayVersion"] == locked("ray")
    assert first["authOptions"]["mode"] == "token"
    assert first["autoscalerOptions"]["version"] == "v2"
    assert first["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {each["groupName"]: each for each in first["workerGroupSpecs"]}
    assert set(groups) == ({"cpu", "gpu"} if overlay == "gpu" else {"cpu"})
    if overlay == "gpu":
        assert groups["gpu"]["minReplicas"] == 0
        limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rules_that_kuberays_operator_checks_and_no_schema_tells(overlay):
    """By its validation.go: names, restart policies with autoscaler v2, reserved variables, deadlines, suspension."""
    for each in ray_objects(overlay):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", each["metadata"]["name"])
        if each["kind"] == "RayJob":
            spec = each["spec"]
            assert "clusterSelector" not in spec
            assert not spec["suspend"] or spec["shutdownAfterJobFinishes"]
            assert spec["backoffLimit"] > 0 and spec["activeDeadlineSeconds"] > 0 and "jobId" not in spec
    for spec in specs(overlay):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            pod = group["template"]["spec"]
            assert pod.get("restartPolicy", "Never") == "Never"
            assert not group.get("resources") and "labels" not in group["rayStartParams"]
            names = {env["name"] for env in pod["containers"][0].get("env", [])}
            assert not names & {"RAY_enable_autoscaler_v2", "REDIS_PASSWORD", "RAY_REDIS_ADDRESS"}


def pods() -> list[tuple[str, Document]]:
    """The pod templates of everything that runs on Kubernetes."""
    found = []
    for overlay in OVERLAYS:
        spec = specs(overlay)[0]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            found.append((f"{overlay} {group.get('groupName', 'head')}", group["template"]))
    for each in rendered("mlflow/kubernetes"):
        if each["kind"] in ("Deployment", "StatefulSet"):
            found.append((each["metadata"]["name"], each["spec"]["template"]))
    return found


def test_pods_keep_to_the_restricted_standard_and_ask_for_what_they_need():
    """pod-security.kubernetes.io/enforce: restricted, which both namespaces are labelled with."""
    assert len(pods()) == 7
    for name, template in pods():
        pod = template["spec"]
        around = pod["securityContext"]
        assert around["runAsNonRoot"] and around["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        kinds = {next(kind for kind in volume if kind != "name") for volume in pod["volumes"]}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}, name
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            declared = {volume["name"] for volume in pod["volumes"]} | {"data"}  # postgres: a claim template
            assert mounted <= declared, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_pods_refer_to_is_there(overlay):
    objects = rendered(f"kuberay/overlays/{overlay}")
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    assert {each["metadata"].get("namespace", "ecor") for each in objects if each["kind"] != "Namespace"} == {"ecor"}
    for spec in specs(overlay):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            pod = group["template"]["spec"]
            for volume in pod["volumes"]:
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in there
                if "persistentVolumeClaim" in volume:
                    assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
            if "serviceAccountName" in pod:
                assert ("ServiceAccount", pod["serviceAccountName"]) in there
            for source in pod["containers"][0]["envFrom"]:
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in there


def settings(overlay: str) -> dict[str, str]:
    (found,) = [
        each["data"]
        for each in of_kind(rendered(f"kuberay/overlays/{overlay}"), "ConfigMap")
        if each["metadata"]["name"] == "ecor-settings"
    ]
    return dict(found)


def commands_in(entrypoint: str, variables: dict[str, str]) -> list[list[str]]:
    """The words of each command, as the shell would split them."""
    text = re.sub(r"\$(\w+)", lambda found: variables[found[1]], entrypoint)
    return [shlex.split(each) for each in text.split("&&")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_commands_of_jobs_are_commands_of_ecor(overlay):
    variables = settings(overlay)
    seen = {}
    for job in of_kind(rendered(f"kuberay/overlays/{overlay}"), "RayJob"):
        for words in commands_in(job["spec"]["entrypoint"], variables):
            assert words[0] == "ecor"
            seen[words[1]] = _parse_command(words[1:])
    assert set(seen) == {"shard", "train", "register", "score", "run"}
    train, score = seen["train"].config, seen["score"].config
    assert isinstance(train, TrainConfig) and isinstance(score, ScoreConfig)
    assert train.use_gpu == score.use_gpu == (overlay == "gpu")
    assert score.num_scorers is not None, "an autoscaler that has started no GPU yet must be told how many"
    assert isinstance(seen["shard"].cluster, ClusterConfig)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pipeline_that_is_mounted_is_one(overlay):
    (found,) = [
        each["data"]["pipeline.toml"]
        for each in of_kind(rendered(f"kuberay/overlays/{overlay}"), "ConfigMap")
        if each["metadata"]["name"] == "ecor-pipeline"
    ]
    config = parse_pipeline(tomllib.loads(found), source="the config map")
    assert config.score.use_gpu == config.train.use_gpu == (overlay == "gpu")
    assert config.output.startswith("/data/")
    entrypoints = [each["spec"]["entrypoint"] for each in of_kind(rendered(f"kuberay/overlays/{overlay}"), "RayJob")]
    assert "ecor run /etc/ecor/pipeline.toml" in entrypoints


# Kubernetes' own objects


@pytest.mark.parametrize(("name", "each"), core_objects(), ids=[name for name, _ in core_objects()])
def test_core_objects_fit_kubernetes_own_schema(name, each):
    kubernetes_validate.validate(each, KUBERNETES, strict=True)


@pytest.mark.parametrize("folder", ["kuberay/overlays/cpu", "kuberay/overlays/gpu", "mlflow/kubernetes", "monitoring"])
def test_rendered_core_objects_fit_too(folder):
    found = [each for each in rendered(folder) if each["apiVersion"] not in CUSTOM]
    for each in found:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    assert found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_ray_fit_the_schema_of_pods(overlay):
    """The CRD copies the pod's schema; Kubernetes' own also knows which values are allowed."""
    for spec in specs(overlay):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **copy.deepcopy(group["template"])}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_misspelt_core_field_is_found():
    (claim,) = [each for name, each in core_objects() if name.endswith("PersistentVolumeClaim")]
    spoilt = copy.deepcopy(claim)
    spoilt["spec"]["accessMode"] = ["ReadWriteMany"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spoilt, KUBERNETES, strict=True)


def test_network_policies_let_in_nobody_by_default():
    policies = [each for name, each in core_objects() if name.endswith("NetworkPolicy")]
    assert len(policies) == 3
    for policy in policies:
        assert "Ingress" in policy["spec"]["policyTypes"]
        for rule in policy["spec"]["ingress"]:
            assert rule.get("from"), "a rule without `from` lets everybody in"
            for peer in rule["from"]:
                everywhere = peer.get("namespaceSelector") == {}
                assert not everywhere or peer.get("podSelector", {}).get("matchLabels")


# MLflow


@pytest.fixture(scope="module")
def compose() -> Document:
    return yaml.safe_load((INFRA / "mlflow/compose.yaml").read_text())


def test_the_compose_file_holds_together(compose):
    services = compose["services"]
    assert set(compose) == {"name", "x-restart", "services", "volumes"}
    known = {
        *("image", "environment", "volumes", "healthcheck", "depends_on", "entrypoint", "command", "restart", "ports"),
        *("security_opt", "logging"),
    }
    for name, service in services.items():
        assert set(service) <= known, name
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
            else:
                assert services[other]["restart"] == "no", "what must end is not started again"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (INFRA / "mlflow" / source).is_file()
        assert service["restart"] == "no" or "healthcheck" in service, name
    assert all(port.startswith("127.0.0.1:") for port in services["mlflow"]["ports"])


def test_every_variable_of_the_compose_file_is_told_in_the_example(compose):
    wanted = set(re.findall(r"\$\{(\w+)", (INFRA / "mlflow/compose.yaml").read_text()))
    told = set(re.findall(r"^(\w+)=", (INFRA / "mlflow/env.example").read_text(), re.M))
    assert wanted == told


def test_the_server_is_started_with_flags_and_variables_that_mlflow_knows(compose):
    import mlflow.environment_variables as known
    from mlflow.cli import server

    script = (INFRA / "mlflow/kubernetes/start.sh").read_text()
    options = {name for each in server.params for name in each.opts}
    used = set(re.findall(r"^\s+(--[a-z-]+)", script, re.M))
    assert {"--app-name", "--expose-prometheus", "--artifacts-destination"} <= used <= options
    for name in re.findall(r"^export (MLFLOW_\w+)", script, re.M):
        assert hasattr(known, name), name
    from_environment = {each.envvar for each in server.params if isinstance(each.envvar, str)}
    (deployment,) = of_kind(rendered("mlflow/kubernetes"), "Deployment")
    in_pod = {each["name"] for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    in_compose = set(compose["services"]["mlflow"]["environment"])
    ours = {"AUTH_DATABASE_URI", "MLFLOW_ARTIFACTS"}
    for given in (in_pod - {"POSTGRES_PASSWORD", "HOME"}, in_compose):
        assert ours <= given
        assert {"MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD"} <= given
        for name in given - ours:
            assert name.startswith("AWS_") or name in from_environment or hasattr(known, name), name
        for name in ours:
            assert name in script


def test_the_script_gives_mlflow_a_file_of_users_that_it_reads(tmp_path, monkeypatch):
    """With `mlflow` replaced by what prints its words; a percent sign in the password survives the ini format."""
    # by its path: the package wants Flask-WTF, which only servers have
    path = Path(mlflow.__file__).parent / "server/auth/config.py"
    spec = importlib.util.spec_from_file_location("auth_config", path)
    config = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config)
    fake = tmp_path / "mlflow"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    script = (INFRA / "mlflow/kubernetes/start.sh").read_text().replace("/tmp/", f"{tmp_path}/")
    address = "postgresql+psycopg2://mlflow:a%40b@postgres:5432/mlflow_auth"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "AUTH_DATABASE_URI": address, "MLFLOW_ARTIFACTS": "s3://b/a"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "--app-name=basic-auth" in done.stdout
    assert address not in done.stdout
    ini = tmp_path / "basic_auth.ini"
    assert ini.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(ini))
    assert config.read_auth_config().database_uri == address
    assert config.read_auth_config().default_permission == "READ"
    assert config.read_auth_config().auth_cache_ttl_seconds == 60


# Monitoring

WATCHED = ("ray_running_jobs", "ray_object_store_memory")
"""Made in Ray's C++; tests/system/test_submitted_jobs.py finds them on a running cluster."""


def expressions() -> dict[str, str]:
    rules = yaml.safe_load((INFRA / "monitoring/rules.yaml").read_text())
    found = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    dashboard = json.loads((INFRA / "monitoring/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        found |= {f"{panel['title']} {each['refId']}": each["expr"] for each in panel["targets"]}
    found |= {each["name"]: each["definition"] for each in dashboard["templating"]["list"] if "definition" in each}
    return found


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


def test_every_metric_that_is_watched_is_one_that_we_or_ray_export():
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    ours = {name for metric in METRICS for name in metric.exported_names}
    rays = {f"ray_{name}" for name in METRICS_GAUGES} | set(WATCHED)
    used = set()
    for place, expression in expressions().items():
        assert names_in(expression), place
        assert names_in(expression) <= ours | rays, f"{place}: {names_in(expression) - ours - rays}"
        assert expression.count("(") == expression.count(")"), place
        used |= names_in(expression)
    unused = {metric.name for metric in METRICS if not used & set(metric.exported_names)}
    assert not unused, "what nobody looks at need not be counted"
    assert set(WATCHED) <= used


def test_labels_that_are_asked_for_are_given():
    tags = {name: set(metric.tags) for metric in METRICS for name in metric.exported_names}
    given = {"SessionName", "le", "instance", "GpuIndex", "Location"}
    for place, expression in expressions().items():
        asked = {label for group in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", expression) for label in group.split(", ")}
        own = set().union(*(tags.get(name, set()) for name in names_in(expression)))
        assert asked <= own | given, place


def test_rules_are_the_same_for_both_kinds_of_prometheus():
    plain = yaml.safe_load((INFRA / "monitoring/rules.yaml").read_text())
    (custom,) = documents(INFRA / "monitoring/prometheusrule.yaml")
    assert custom["spec"] == plain
    alerts = [rule for group in plain["groups"] for rule in group["rules"]]
    assert {each["alert"] for each in alerts} >= {"EcorNoProgress", "EcorQuarantineShare", "EcorIdleGpu"}
    for rule in alerts:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", rule["for"])


def test_the_dashboard_is_one_that_grafana_imports():
    dashboard = json.loads((INFRA / "monitoring/dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) >= 12
    assert dashboard["uid"] and dashboard["schemaVersion"] >= 36
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    for panel in dashboard["panels"]:
        assert panel["title"] and panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_pods_are_scraped_at_ports_that_they_have():
    (monitor,) = documents(INFRA / "monitoring/podmonitor.yaml")
    wanted = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
    (cluster,) = [each for each in ray_files() if each["kind"] == "RayCluster"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    ports = [{port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]} for group in groups]
    assert wanted <= ports[0]
    assert all("metrics" in names for names in ports)


# The instructions


def commands_of_readme() -> list[str]:
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S))
    return [line for line in blocks.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_commands_to_paste_name_files_and_settings_that_are_there():
    lines = commands_of_readme()
    for line in lines:
        for path in re.findall(r"(?<![\w/])((?:infra/|ray_cluster)[\w./-]+)", line):
            is_made = path in (ROOT / ".gitignore").read_text()
            assert is_made or (ROOT / path).exists(), line
        if re.match(r"(?:ray job submit .* -- )?ecor ", line):
            words = shlex.split(line.partition(" -- ")[2] or line)
            _parse_command(words[1:])
    told = "\n".join(lines)
    for command in ("ray up", "kubectl apply -k", "docker build", "ray job submit", "mlflow server"):
        assert command in told


def test_the_pictures_to_paste_are_drawn_and_are_what_the_pipeline_to_paste_reads(tmp_path):
    """The instructions' own words, of fewer pictures."""
    (line,) = [line for line in commands_of_readme() if line.startswith("python -c")]
    code = re.sub(r"num_images=\{.*?\}", "num_images={'train': 20, 'test': 10}", shlex.split(line)[2])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"^cat > pipeline.toml <<END\n(.*?)^END$", text, re.M | re.S)
    config = parse_pipeline(tomllib.loads(written.replace("$PWD", str(tmp_path))), source="infra/README.md")
    source = find_source(config.shard)
    rows = pa.concat_tables([table for place in source.places for table in list_images(place)])
    assert rows.num_rows == 30
