"""Concepts above the categories and parts of the familiar world, with definitions for the demo's lexicon."""

# fmt: off
ABOVE: dict[str, tuple[str, str]] = {
    "thing": ("", "something that can be seen"),
    "living thing": ("thing", "something that lives and grows, an animal or a plant"),
    "animal": ("living thing", "a living thing with legs, wings or fins, such as a horse, a duck or a fish"),
    "mammal": ("animal", "an animal with hair, ears and a tail, such as a horse, a cat or a rabbit"),
    "hoofed animal": ("mammal", "a mammal with four dark hooves, such as a horse, a cow or a deer"),
    "beast of prey": ("mammal", "a mammal with sharp white fangs and whiskers, such as a lion, a cat or a fox"),
    "bird": ("animal", "an animal with a beak, two wings and feathers, such as an owl, a duck or a rooster"),
    "sea animal": ("animal", "an animal that lives in the water, such as a fish, a whale or an octopus"),
    "reptile": ("animal", "an animal with a shell or scales, such as a turtle"),
    "mollusc": ("animal", "an animal with a soft body, feelers or curling arms, such as a snail or an octopus"),
    "arthropod": ("animal", "an animal with six or eight jointed legs, such as a bee, a butterfly or a spider"),
    "plant": ("living thing", "a living thing with a stem or a trunk, such as a tree or a cactus"),
    "made thing": ("thing", "something that people have made, such as a car, a house or a hammer"),
    "vehicle": ("made thing", "something that carries people or a load, such as a car, an airplane or a sailboat"),
    "road vehicle": ("vehicle", "a vehicle with wheels and headlights, such as a car, a truck or a bus"),
    "aircraft": ("vehicle", "a vehicle that flies, with wings, blades or flames, such as an airplane or a helicopter"),
    "vessel": ("vehicle", "a vehicle on blue waves, with a mast or a propeller, such as a sailboat"),
    "building": ("made thing", "something with walls, a door and windows, such as a house, a castle or a church"),
    "tool": ("made thing", "something with a handle and a blade or teeth, such as a hammer, an axe or scissors"),
    "household thing": ("made thing", "something found in a house, such as a chair, a lamp, a clock or a teapot"),
    "adornment": ("made thing", "something made to be looked at, such as a snowman"),
    "food": ("thing", "something to eat, such as a pizza, a cake or an apple"),
    "fruit": ("food", "a ripe food with seeds, a stem and leaves, such as an apple or a strawberry"),
    "sweet": ("food", "a food with cream or candy, such as a cake or an ice cream"),
    "meal": ("food", "a food with cheese, lettuce or a crust, such as a pizza or a hamburger"),
    "part": ("thing", "a piece of something, such as a tail, a wheel or a handle"),
    "tail": ("part", "a tail at the back of an animal"),
    "ears": ("part", "ears on the head of an animal"),
    "horns": ("part", "horns on the head of an animal"),
    "hair": ("part", "long hair on an animal, a mane or wool"),
    "teeth": ("part", "sharp white teeth, tusks or fangs"),
    "nose or beak": ("part", "a nose, a trunk or a beak at the front of the head"),
    "feature of a face": ("part", "something on a head: eyes, a tongue, whiskers, plumes or feelers"),
    "legs or feet": ("part", "legs, hooves, claws or feet under an animal"),
    "wing or fin": ("part", "wings, flippers or fins at the sides of an animal"),
    "pattern": ("part", "stripes, spots, patches or bands on the skin of an animal"),
    "body": ("part", "the neck, the back or the shell of an animal"),
    "something worn": ("part", "a saddle, a collar, a scarf or a hat that is worn"),
    "surroundings": ("part", "water, smoke, flames or threads around something"),
    "running gear": ("part", "wheels, pedals or handlebars of a vehicle"),
    "light": ("part", "a shining light, a lamp or a flame"),
    "sign": ("part", "a sign, a badge, a flag, a cross or a stripe on the side"),
    "window": ("part", "windows or portholes in a side or a wall"),
    "door": ("part", "a door or a gate to go in"),
    "pipe": ("part", "a chimney, a pipe or a hose"),
    "load": ("part", "luggage, a box, a basket or a ladder that is carried"),
    "sail or rotor": ("part", "sails, blades or fins that move a vehicle"),
    "front": ("part", "the pointed front of a vehicle"),
    "wall": ("part", "a wall, a fence or a railed gallery of a building"),
    "handle": ("part", "a handle or a grip to hold"),
    "blade": ("part", "a sharp blade, claw or teeth of a tool"),
    "cushion or frame": ("part", "the seat, the legs or the cover of a piece of furniture"),
    "fitting": ("part", "a small piece on top or at the side: bells, pegs, strings or a lid"),
    "page": ("part", "paper with text or pictures"),
    "jewel": ("part", "jewels, pearls or fur on something golden"),
    "topping": ("part", "cheese, cream, sprinkles or slices on a food"),
    "crust or skin": ("part", "the crust, the rind or the skin of a food"),
    "leaf": ("part", "green leaves on top of a fruit"),
    "seeds": ("part", "small seeds or ripe fruit"),
    "growth": ("part", "what grows on a stem or a trunk: arms, spines, gills or a blossom"),
}
"""Parent and definition of each concept above categories and parts."""


CATEGORIES_UNDER: dict[str, tuple[str, ...]] = {
    "hoofed animal": (
        "horse", "zebra", "unicorn", "cow", "giraffe", "camel", "deer", "pig", "sheep",
    ),
    "beast of prey": ("lion", "tiger", "leopard", "cat", "dog", "fox"),
    "mammal": ("elephant", "rabbit", "panda", "whale"),
    "bird": ("owl", "penguin", "flamingo", "peacock", "rooster", "duck"),
    "sea animal": ("fish", "shark", "whale", "octopus", "crab"),
    "reptile": ("turtle", "snake"),
    "mollusc": ("octopus", "snail"),
    "arthropod": ("crab", "butterfly", "bee", "ladybird", "spider"),
    "plant": ("cactus", "tree"),
    "living thing": ("mushroom",),
    "road vehicle": (
        "car", "taxi", "police car", "truck", "fire engine", "ambulance", "bus", "bicycle", "tractor",
    ),
    "vehicle": ("train",),
    "aircraft": ("airplane", "helicopter", "rocket", "hot air balloon"),
    "vessel": ("sailboat", "submarine"),
    "building": ("house", "castle", "lighthouse", "windmill", "church"),
    "tool": ("hammer", "axe", "scissors", "saw", "key", "sword"),
    "household thing": ("umbrella", "chair", "bed", "lamp", "clock", "guitar", "teapot", "candle", "book"),
    "adornment": ("snowman", "crown"),
    "fruit": ("apple", "pineapple", "strawberry", "watermelon"),
    "sweet": ("ice cream", "cake", "lollipop"),
    "meal": ("pizza", "hamburger"),
}


PARTS_UNDER: dict[str, tuple[str, ...]] = {
    "tail": (
        "a long hairy tail", "a tail ending in a tuft", "a rainbow tail", "a ringed tail", "a long drooping tail",
        "a short white tail", "a round fluffy tail", "a curly tail", "a tail curled upwards", "a wagging tail",
        "a bushy tail with a white tip", "a fan of tail feathers with eye spots", "long curved tail feathers",
        "a forked tail fin", "a broad tail fluke", "a rattle at the tail",
    ),
    "ears": (
        "large flapping ears", "long upright ears", "floppy triangular ears", "pointed ears", "floppy hanging ears",
        "round black ears", "feathered ear tufts",
    ),
    "horns": ("a spiral horn on the forehead", "short curved horns", "two knobbed horns", "branching antlers"),
    "hair": (
        "a flowing mane", "a stiff upright mane", "a lilac mane", "a thick mane around the face", "curly white wool",
    ),
    "teeth": ("white curved tusks", "sharp white fangs", "big front teeth", "a row of sharp teeth"),
    "nose or beak": (
        "a long trunk", "a flat round snout", "a hooked beak with a black tip", "a flat orange bill", "a carrot nose",
    ),
    "feature of a face": (
        "white cheeks", "long white whiskers", "black patches around the eyes", "huge round eyes", "eyes on stalks",
        "a tongue hanging out", "a forked tongue", "a red comb on the head", "a dangling red wattle",
        "a crown of tiny plumes", "a shiny green head", "curled antennae", "two thin feelers",
    ),
    "legs or feet": (
        "four dark hooves", "black stockings on the legs", "talons gripping a branch", "orange webbed feet",
        "long thin pink legs", "eight curling arms", "two big claws", "short stubby legs", "six tiny black legs",
        "eight long jointed legs",
    ),
    "wing or fin": (
        "flippers at the sides", "a folded wing", "wings with coloured rings", "see-through wings",
        "a tall triangular dorsal fin",
    ),
    "pattern": (
        "black and white stripes", "black patches on the hide", "brown patches on the coat",
        "black stripes on orange fur", "dark rosette spots", "white spots on the back", "a speckled breast",
        "a white belly", "yellow and black bands", "black dots on the wings", "a red hourglass mark",
        "a diamond pattern along the back", "rings of pale suckers", "rows of shiny scales", "a grooved pale throat",
        "gill slits behind the head",
    ),
    "body": (
        "a pink udder", "a very long neck", "two humps on the back", "a curved slender neck",
        "a shell of hexagon plates", "a spiral on the shell", "a pointed sting",
    ),
    "something worn": (
        "a leather saddle", "a fringed saddle blanket", "a rope bridle", "a golden neck bell", "a collar with a tag",
        "a black top hat", "coal buttons", "a knitted scarf",
    ),
    "surroundings": (
        "a green bamboo stalk", "a trail of air bubbles", "a spout of water", "a trail of slime",
        "a web of silk threads", "choppy blue waves", "falling raindrops", "rising steam",
        "flames shooting out below", "a bird nest with eggs", "a crawling worm",
    ),
    "running gear": (
        "wheels with thin spokes", "a pair of pedals", "a huge treaded rear wheel",
        "a row of driving wheels with a rod", "landing skids", "curved handlebars",
    ),
    "light": (
        "shining headlights", "a glowing sign on the roof", "a blue and red light bar", "a blue siren",
        "a sweeping beam of light", "a glowing light bulb", "burning candles", "a flickering flame",
    ),
    "sign": (
        "a glowing sign on the roof", "a checkered band along the doors", "a gold star badge on the door",
        "a red cross on the side", "a white stripe along the side", "red and white bands", "bright vertical panels",
        "a small red pennant", "flags flying from the towers", "a cross on the steeple",
    ),
    "window": (
        "a row of passenger windows", "a line of small round portholes", "three big bolted portholes",
        "a single round window", "square windows with frames", "tall stained-glass windows", "narrow arrow slits",
    ),
    "door": ("a folding door", "a wooden front door", "an arched drawbridge gate", "a small arched doorway"),
    "pipe": (
        "an upright exhaust pipe", "a smoking chimney", "a brick chimney", "a raised periscope",
        "a coiled water hose",
    ),
    "load": (
        "a roof rack with luggage", "a large cargo box", "a long ladder on top", "a wicker basket",
        "ropes holding the load",
    ),
    "sail or rotor": (
        "an upright tail fin", "swept-back wings with engines", "spinning rotor blades on top", "a small tail rotor",
        "swept side fins", "triangular white sails", "four lattice sails", "a tall wooden mast",
        "a bronze propeller",
    ),
    "front": ("a front grille with slots", "a pointed cowcatcher", "a pointed nose cone"),
    "wall": (
        "a white picket fence", "battlements on the walls", "a railed gallery", "a bronze bell in the tower",
    ),
    "handle": (
        "a wooden handle", "leather wrapped around the grip", "two finger loops", "a handle with a grip hole",
        "a ring-shaped bow", "a curved hook handle", "a golden cross guard", "a saucer with a finger ring",
    ),
    "blade": (
        "a heavy flat striking face", "a forked nail claw", "a wide sharp blade", "two crossed blades",
        "a row of jagged teeth", "notched teeth at the end", "a screw at the pivot",
    ),
    "cushion or frame": (
        "a slatted backrest", "a plump seat cushion", "wooden rungs between the legs", "a carved headboard",
        "a soft white pillow", "a patchwork blanket", "a cone-shaped shade", "a canopy with pale panels",
    ),
    "fitting": (
        "a dangling pull chain", "twin bells on top", "hour marks around the face", "two pointing hands",
        "a dark round sound hole", "tuning pegs on the head", "stretched silver strings", "a curved pouring spout",
        "a lid with a round knob", "painted flowers on the side", "drips of melted wax", "a bow tied on the stick",
    ),
    "page": (
        "a paper name tag", "lines of printed text", "a framed picture on the page", "a ribbon bookmark",
    ),
    "jewel": ("a ruby in the pommel", "pearls on the tips", "set with coloured jewels", "a trim of white fur"),
    "topping": (
        "slices of pepperoni", "green basil leaves", "black olive rings", "a dollop of whipped cream",
        "colourful sprinkles", "a cherry on top", "layers of cream filling", "a slice of melted cheese",
        "crinkled green lettuce", "sesame seeds on the bun",
    ),
    "crust or skin": (
        "a golden crust", "a crisp waffle cone", "a striped green rind", "a criss-cross skin", "a bite taken out",
        "a white candy swirl",
    ),
    "leaf": ("a leaf on the stem", "a crown of spiky leaves", "a cap of green leaves", "green basil leaves"),
    "seeds": ("tiny yellow seeds", "black pips in the flesh", "ripe red fruit"),
    "growth": (
        "a ragged skirt around the stem", "pale gills under the cap", "white warts on the cap", "raised side arms",
        "rows of sharp spines", "a pink blossom", "a hollow in the trunk",
    ),
}
# fmt: on
