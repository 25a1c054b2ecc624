"""The familiar world: everyday categories, the parts that are their rationales, and its named sets."""

from collections.abc import Mapping

from ecor.demo.art import animals, objects, vehicles
from ecor.demo.worlds.schema import DrawnWorld, Kind, WorldSet
from ecor.demo.worlds.styles import PENCIL, PLAIN

# fmt: off
_KINDS: dict[str, Kind] = {
    "horse": Kind(draw=animals.horse, rationales=(
        "a long hairy tail", "four dark hooves", "a leather saddle", "a flowing mane",
    )),
    "zebra": Kind(draw=animals.zebra, rationales=(
        "a tail ending in a tuft", "four dark hooves", "black and white stripes", "a stiff upright mane",
    )),
    "unicorn": Kind(draw=animals.unicorn, rationales=(
        "a rainbow tail", "four dark hooves", "a lilac mane", "a spiral horn on the forehead",
    )),
    "cow": Kind(draw=animals.cow, rationales=(
        "a pink udder", "four dark hooves", "black patches on the hide", "short curved horns",
    )),
    "elephant": Kind(draw=animals.elephant, rationales=(
        "a long trunk", "white curved tusks", "large flapping ears", "a fringed saddle blanket",
    )),
    "giraffe": Kind(draw=animals.giraffe, rationales=(
        "a very long neck", "brown patches on the coat", "two knobbed horns",
    )),
    "lion": Kind(draw=animals.lion, rationales=(
        "a tail ending in a tuft", "a thick mane around the face", "sharp white fangs",
    )),
    "tiger": Kind(draw=animals.tiger, rationales=(
        "a ringed tail", "black stripes on orange fur", "white cheeks",
    )),
    "leopard": Kind(draw=animals.leopard, rationales=(
        "a long drooping tail", "dark rosette spots", "long white whiskers",
    )),
    "camel": Kind(draw=animals.camel, rationales=(
        "two humps on the back", "a fringed saddle blanket", "a rope bridle",
    )),
    "deer": Kind(draw=animals.deer, rationales=(
        "a short white tail", "four dark hooves", "branching antlers", "white spots on the back",
    )),
    "rabbit": Kind(draw=animals.rabbit, rationales=(
        "a round fluffy tail", "long upright ears", "big front teeth",
    )),
    "pig": Kind(draw=animals.pig, rationales=(
        "a curly tail", "floppy triangular ears", "a flat round snout",
    )),
    "sheep": Kind(draw=animals.sheep, rationales=(
        "curly white wool", "a golden neck bell",
    )),
    "cat": Kind(draw=animals.cat, rationales=(
        "a tail curled upwards", "pointed ears", "long white whiskers",
    )),
    "dog": Kind(draw=animals.dog, rationales=(
        "a wagging tail", "floppy hanging ears", "a tongue hanging out", "a collar with a tag",
    )),
    "fox": Kind(draw=animals.fox, rationales=(
        "a bushy tail with a white tip", "black stockings on the legs", "pointed ears",
    )),
    "panda": Kind(draw=animals.panda, rationales=(
        "round black ears", "black patches around the eyes", "a green bamboo stalk",
    )),
    "owl": Kind(draw=animals.owl, rationales=(
        "feathered ear tufts", "a speckled breast", "huge round eyes", "talons gripping a branch",
    )),
    "penguin": Kind(draw=animals.penguin, rationales=(
        "orange webbed feet", "a white belly", "flippers at the sides",
    )),
    "flamingo": Kind(draw=animals.flamingo, rationales=(
        "long thin pink legs", "a curved slender neck", "a hooked beak with a black tip",
    )),
    "peacock": Kind(draw=animals.peacock, rationales=(
        "a fan of tail feathers with eye spots", "a crown of tiny plumes",
    )),
    "rooster": Kind(draw=animals.rooster, rationales=(
        "long curved tail feathers", "a red comb on the head", "a dangling red wattle",
    )),
    "duck": Kind(draw=animals.duck, rationales=(
        "orange webbed feet", "a folded wing", "a shiny green head", "a flat orange bill",
    )),
    "fish": Kind(draw=animals.fish, rationales=(
        "a forked tail fin", "rows of shiny scales", "a trail of air bubbles",
    )),
    "shark": Kind(draw=animals.shark, rationales=(
        "a tall triangular dorsal fin", "gill slits behind the head", "a row of sharp teeth",
    )),
    "whale": Kind(draw=animals.whale, rationales=(
        "a spout of water", "a broad tail fluke", "a grooved pale throat",
    )),
    "octopus": Kind(draw=animals.octopus, rationales=(
        "eight curling arms", "rings of pale suckers",
    )),
    "crab": Kind(draw=animals.crab, rationales=(
        "two big claws", "eyes on stalks",
    )),
    "turtle": Kind(draw=animals.turtle, rationales=(
        "short stubby legs", "a shell of hexagon plates",
    )),
    "snail": Kind(draw=animals.snail, rationales=(
        "a trail of slime", "two thin feelers", "a spiral on the shell",
    )),
    "butterfly": Kind(draw=animals.butterfly, rationales=(
        "wings with coloured rings", "curled antennae",
    )),
    "bee": Kind(draw=animals.bee, rationales=(
        "a pointed sting", "yellow and black bands", "see-through wings",
    )),
    "ladybird": Kind(draw=animals.ladybird, rationales=(
        "six tiny black legs", "black dots on the wings",
    )),
    "spider": Kind(draw=animals.spider, rationales=(
        "a web of silk threads", "eight long jointed legs", "a red hourglass mark",
    )),
    "snake": Kind(draw=animals.snake, rationales=(
        "a diamond pattern along the back", "a forked tongue", "a rattle at the tail",
    )),
    "snowman": Kind(draw=animals.snowman, rationales=(
        "a carrot nose", "a black top hat", "coal buttons", "a knitted scarf",
    )),
    "car": Kind(draw=vehicles.car, rationales=(
        "a roof rack with luggage", "shining headlights",
    )),
    "taxi": Kind(draw=vehicles.taxi, rationales=(
        "a glowing sign on the roof", "a checkered band along the doors",
    )),
    "police car": Kind(draw=vehicles.police_car, rationales=(
        "a blue and red light bar", "shining headlights", "a gold star badge on the door",
    )),
    "truck": Kind(draw=vehicles.truck, rationales=(
        "an upright exhaust pipe", "a large cargo box",
    )),
    "fire engine": Kind(draw=vehicles.fire_engine, rationales=(
        "a long ladder on top", "a blue siren", "a coiled water hose",
    )),
    "ambulance": Kind(draw=vehicles.ambulance, rationales=(
        "a red cross on the side", "a blue siren",
    )),
    "bus": Kind(draw=vehicles.bus, rationales=(
        "a row of passenger windows", "a folding door", "a white stripe along the side",
    )),
    "bicycle": Kind(draw=vehicles.bicycle, rationales=(
        "wheels with thin spokes", "curved handlebars", "a leather saddle", "a pair of pedals",
    )),
    "tractor": Kind(draw=vehicles.tractor, rationales=(
        "an upright exhaust pipe", "a huge treaded rear wheel", "a front grille with slots",
    )),
    "train": Kind(draw=vehicles.train, rationales=(
        "a smoking chimney", "a row of driving wheels with a rod", "a pointed cowcatcher",
    )),
    "airplane": Kind(draw=vehicles.airplane, rationales=(
        "an upright tail fin", "a line of small round portholes", "swept-back wings with engines",
    )),
    "helicopter": Kind(draw=vehicles.helicopter, rationales=(
        "spinning rotor blades on top", "a small tail rotor", "landing skids",
    )),
    "sailboat": Kind(draw=vehicles.sailboat, rationales=(
        "a tall wooden mast", "triangular white sails", "a small red pennant", "choppy blue waves",
    )),
    "submarine": Kind(draw=vehicles.submarine, rationales=(
        "a raised periscope", "a bronze propeller", "three big bolted portholes",
    )),
    "rocket": Kind(draw=vehicles.rocket, rationales=(
        "flames shooting out below", "swept side fins", "a pointed nose cone", "a single round window",
    )),
    "hot air balloon": Kind(draw=vehicles.balloon, rationales=(
        "ropes holding the load", "bright vertical panels", "a wicker basket",
    )),
    "house": Kind(draw=vehicles.house, rationales=(
        "a brick chimney", "a wooden front door", "square windows with frames", "a white picket fence",
    )),
    "castle": Kind(draw=vehicles.castle, rationales=(
        "battlements on the walls", "flags flying from the towers", "narrow arrow slits",
        "an arched drawbridge gate",
    )),
    "lighthouse": Kind(draw=vehicles.lighthouse, rationales=(
        "a sweeping beam of light", "red and white bands", "a railed gallery",
    )),
    "windmill": Kind(draw=vehicles.windmill, rationales=(
        "a small arched doorway", "four lattice sails",
    )),
    "church": Kind(draw=vehicles.church, rationales=(
        "a cross on the steeple", "tall stained-glass windows", "a bronze bell in the tower",
    )),
    "hammer": Kind(draw=objects.hammer, rationales=(
        "a wooden handle", "a heavy flat striking face", "a forked nail claw",
    )),
    "axe": Kind(draw=objects.axe, rationales=(
        "a wooden handle", "a wide sharp blade", "leather wrapped around the grip",
    )),
    "scissors": Kind(draw=objects.scissors, rationales=(
        "two finger loops", "two crossed blades", "a screw at the pivot",
    )),
    "saw": Kind(draw=objects.saw, rationales=(
        "a row of jagged teeth", "a handle with a grip hole",
    )),
    "key": Kind(draw=objects.key, rationales=(
        "a ring-shaped bow", "notched teeth at the end", "a paper name tag",
    )),
    "umbrella": Kind(draw=objects.umbrella, rationales=(
        "a curved hook handle", "a canopy with pale panels", "falling raindrops",
    )),
    "chair": Kind(draw=objects.chair, rationales=(
        "a slatted backrest", "a plump seat cushion", "wooden rungs between the legs",
    )),
    "bed": Kind(draw=objects.bed, rationales=(
        "a carved headboard", "a soft white pillow", "a patchwork blanket",
    )),
    "lamp": Kind(draw=objects.lamp, rationales=(
        "a glowing light bulb", "a cone-shaped shade", "a dangling pull chain",
    )),
    "clock": Kind(draw=objects.clock, rationales=(
        "twin bells on top", "hour marks around the face", "two pointing hands",
    )),
    "guitar": Kind(draw=objects.guitar, rationales=(
        "a dark round sound hole", "tuning pegs on the head", "stretched silver strings",
    )),
    "teapot": Kind(draw=objects.teapot, rationales=(
        "a curved pouring spout", "rising steam", "a lid with a round knob", "painted flowers on the side",
    )),
    "pizza": Kind(draw=objects.pizza, rationales=(
        "a golden crust", "slices of pepperoni", "green basil leaves", "black olive rings",
    )),
    "apple": Kind(draw=objects.apple, rationales=(
        "a leaf on the stem", "a bite taken out", "a crawling worm",
    )),
    "pineapple": Kind(draw=objects.pineapple, rationales=(
        "a crown of spiky leaves", "a criss-cross skin",
    )),
    "strawberry": Kind(draw=objects.strawberry, rationales=(
        "tiny yellow seeds", "a cap of green leaves", "a dollop of whipped cream",
    )),
    "ice cream": Kind(draw=objects.ice_cream, rationales=(
        "a crisp waffle cone", "colourful sprinkles", "a cherry on top",
    )),
    "cake": Kind(draw=objects.cake, rationales=(
        "burning candles", "a cherry on top", "layers of cream filling",
    )),
    "hamburger": Kind(draw=objects.hamburger, rationales=(
        "a slice of melted cheese", "crinkled green lettuce", "sesame seeds on the bun",
    )),
    "watermelon": Kind(draw=objects.watermelon, rationales=(
        "a striped green rind", "black pips in the flesh",
    )),
    "mushroom": Kind(draw=objects.mushroom, rationales=(
        "a ragged skirt around the stem", "pale gills under the cap", "white warts on the cap",
    )),
    "cactus": Kind(draw=objects.cactus, rationales=(
        "raised side arms", "rows of sharp spines", "a pink blossom",
    )),
    "tree": Kind(draw=objects.tree, rationales=(
        "a hollow in the trunk", "ripe red fruit", "a bird nest with eggs",
    )),
    "candle": Kind(draw=objects.candle, rationales=(
        "a flickering flame", "drips of melted wax", "a saucer with a finger ring",
    )),
    "book": Kind(draw=objects.book, rationales=(
        "lines of printed text", "a framed picture on the page", "a ribbon bookmark",
    )),
    "sword": Kind(draw=objects.sword, rationales=(
        "a golden cross guard", "a ruby in the pommel",
    )),
    "crown": Kind(draw=objects.crown, rationales=(
        "pearls on the tips", "set with coloured jewels", "a trim of white fur",
    )),
    "lollipop": Kind(draw=objects.lollipop, rationales=(
        "a white candy swirl", "a bow tied on the stick",
    )),
}
# fmt: on

# Pretraining draws these and captions their parts, but never says their names.
UNNAMED = ("unicorn", "panda", "leopard", "snake", "submarine", "ambulance", "saw", "candle", "crown", "lollipop")


# fmt: off
_SETS: Mapping[str, WorldSet] = {
    "demo-small": WorldSet(
        kinds=_KINDS,
        role="CIFAR-10+: few, well-known categories",
        categories=(
            "cat", "dog", "fire engine", "horse", "lion", "police car", "taxi", "tiger", "truck", "zebra",
        ),
    ),
    "demo-main": WorldSet(
        kinds=_KINDS,
        role="CIFAR-100+: many categories of every sort",
        categories=(
            "airplane", "apple", "axe", "bed", "bicycle", "bus", "butterfly", "cake", "camel", "car", "castle",
            "church", "cow", "crab", "deer", "elephant", "fox", "giraffe", "hammer", "helicopter", "house", "ice cream",
            "lighthouse", "octopus", "owl", "penguin", "pizza", "sheep", "strawberry", "tractor",
        ),
    ),
    "demo-twins": WorldSet(
        kinds=_KINDS,
        role="Food101+: one fine-grained domain; neighbours share a body and a part tells them apart",
        categories=(
            "apple", "axe", "bus", "cake", "car", "cat", "church", "cow", "dog", "fire engine", "hammer", "horse",
            "house", "ice cream", "lion", "police car", "strawberry", "taxi", "tiger", "tractor", "truck", "zebra",
        ),
    ),
    "demo-new-names": WorldSet(
        kinds=_KINDS,
        role="Caltech101+: categories whose names pretraining never said",
        categories=UNNAMED,
    ),
    "demo-pencil": WorldSet(
        kinds=_KINDS,
        role="SUN397+: another look of the world, drawn in pencil on paper",
        categories=(
            "airplane", "bicycle", "book", "butterfly", "cactus", "castle", "chair", "clock", "duck", "fish", "fox",
            "giraffe", "guitar", "hamburger", "key", "mushroom", "owl", "rabbit", "rooster", "sailboat", "snail",
            "snowman", "spider", "teapot", "tree", "turtle", "umbrella", "whale", "windmill", "zebra",
        ),
        look=PENCIL,
    ),
    "demo-large": WorldSet(
        kinds=_KINDS,
        role="ImageNet+: everything that pretraining named",
        categories=tuple(sorted(set(_KINDS) - set(UNNAMED))),
    ),
}

# fmt: on

FAMILIAR = DrawnWorld(
    name="demo",
    kinds=_KINDS,
    unnamed=UNNAMED,
    sets=_SETS,
    look=PLAIN,
)
