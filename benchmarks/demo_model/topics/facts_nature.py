"""Facts on animals, things, planets and science."""

from __future__ import annotations

from items import Item, article, rows, start, table

# animal | legs | class | sound | young; "-" where not asked
ANIMALS = rows("""
dog | four | mammal | bark | puppy
cat | four | mammal | meow | kitten
cow | four | mammal | moo | calf
horse | four | mammal | neigh | foal
sheep | four | mammal | baa | lamb
pig | four | mammal | oink | piglet
goat | four | mammal | bleat | kid
lion | four | mammal | roar | cub
elephant | four | mammal | trumpet | calf
mouse | four | mammal | squeak | pup
wolf | four | mammal | howl | pup
rabbit | four | mammal | - | kit
kangaroo | two | mammal | - | joey
bat | two | mammal | - | pup
whale | no | mammal | sing | calf
dolphin | no | mammal | click | calf
duck | two | bird | quack | duckling
chicken | two | bird | cluck | chick
goose | two | bird | honk | gosling
owl | two | bird | hoot | owlet
swan | two | bird | - | cygnet
penguin | two | bird | - | chick
eagle | two | bird | screech | eaglet
crow | two | bird | caw | -
frog | four | amphibian | croak | tadpole
snake | no | reptile | hiss | -
lizard | four | reptile | - | -
turtle | four | reptile | - | hatchling
crocodile | four | reptile | - | hatchling
shark | no | fish | - | pup
salmon | no | fish | - | -
spider | eight | arachnid | - | spiderling
scorpion | eight | arachnid | - | -
ant | six | insect | - | -
bee | six | insect | buzz | -
fly | six | insect | buzz | maggot
butterfly | six | insect | - | caterpillar
beetle | six | insect | - | -
crab | ten | crustacean | - | -
octopus | - | mollusc | - | -
snail | no | mollusc | - | -
""")

# thing | is or are | colour
COLOURS = rows("""
the sky | is | blue
the sea | is | blue
grass | is | green
the sun | is | yellow
snow | is | white
milk | is | white
blood | is | red
coal | is | black
chocolate | is | brown
an orange | is | orange
a carrot | is | orange
a tomato | is | red
a strawberry | is | red
a lemon | is | yellow
a banana | is | yellow
a cucumber | is | green
a leaf | is | green
an elephant | is | grey
a flamingo | is | pink
a polar bear | is | white
a crow | is | black
a fire engine | is | red
a school bus | is | yellow
a blueberry | is | blue
an aubergine | is | purple
""")

MIXES = rows("""
red | yellow | orange
yellow | blue | green
red | blue | purple
red | white | pink
black | white | grey
yellow | red | orange
blue | yellow | green
blue | red | purple
white | red | pink
white | black | grey
""")

# planet | place from the sun
PLANETS = rows("""
Mercury | first
Venus | second
Earth | third
Mars | fourth
Jupiter | fifth
Saturn | sixth
Uranus | seventh
Neptune | eighth
""")

SYMBOLS = rows("""
hydrogen | H
helium | He
lithium | Li
carbon | C
nitrogen | N
oxygen | O
fluorine | F
neon | Ne
sodium | Na
magnesium | Mg
aluminium | Al
silicon | Si
phosphorus | P
sulphur | S
chlorine | Cl
potassium | K
calcium | Ca
iron | Fe
nickel | Ni
copper | Cu
zinc | Zn
silver | Ag
tin | Sn
iodine | I
gold | Au
mercury | Hg
lead | Pb
uranium | U
""")

# what is asked | the answer in full
SUPERLATIVES = rows("""
the largest planet | The largest planet in the solar system is Jupiter.
the smallest planet | The smallest planet in the solar system is Mercury.
the hottest planet | The hottest planet in the solar system is Venus.
the red planet | The red planet is Mars.
the planet with the rings | Saturn is famous for its rings.
the largest ocean | The largest ocean is the Pacific Ocean.
the smallest ocean | The smallest ocean is the Arctic Ocean.
the highest mountain | The highest mountain on Earth is Mount Everest.
the tallest animal | The tallest animal is the giraffe.
the largest animal | The largest animal is the blue whale.
the largest land animal | The largest land animal is the elephant.
the fastest land animal | The fastest land animal is the cheetah.
the largest bird | The largest bird is the ostrich.
the largest continent | The largest continent is Asia.
the smallest continent | The smallest continent is Australia.
the coldest continent | The coldest continent is Antarctica.
the largest country | The largest country by area is Russia.
the smallest country | The smallest country is Vatican City.
the largest desert | The largest hot desert is the Sahara.
the largest organ of the body | The largest organ of the human body is the skin.
the longest bone | The longest bone of the human body is the thigh bone.
the hardest natural material | The hardest natural material is diamond.
the lightest element | The lightest element is hydrogen.
the nearest star | The star nearest to Earth is the sun.
the speed of light | The speed of light is about 300,000 kilometres per second.
the speed of sound | The speed of sound in air is about 340 metres per second.
the boiling point of water | Water boils at 100 degrees Celsius at sea level.
the freezing point of water | Water freezes at 0 degrees Celsius.
the formula of water | The chemical formula of water is H2O.
the formula of salt | The chemical formula of table salt is NaCl.
the formula of carbon dioxide | The chemical formula of carbon dioxide is CO2.
the value of pi | The number pi is about 3.14159.
the square root of two | The square root of two is about 1.414.
the first prime number | The first prime number is 2.
the shortest month | The shortest month is February.
the shape of the Earth | The Earth has nearly the shape of a ball.
""")

# word | its definition
DEFINITIONS = rows("""
a triangle | A triangle is a shape with three sides.
a circle | A circle is a round shape whose points are all equally far from its centre.
a computer | A computer is a machine that follows instructions to work on data.
a program | A program is a list of instructions for a computer.
a neural network | A neural network is a program that learns from examples.
a language model | A language model is a program that predicts the next piece of a text.
a transformer | A transformer is a neural network that works with attention.
attention | Attention lets a model weigh the earlier words of a text.
a token | A token is a short piece of text that a model reads or writes.
a tokenizer | A tokenizer cuts a text into tokens.
a volcano | A volcano is a mountain from which hot lava can come.
an island | An island is land with water all around it.
a desert | A desert is a very dry place with little rain.
a river | A river is a long stream of water that flows to the sea.
a star | A star is a huge ball of hot gas that gives light.
a planet | A planet is a large body that moves around a star.
the moon | The moon is the natural satellite of the Earth.
the sun | The sun is the star at the centre of our solar system.
gravity | Gravity is the force that pulls things towards each other.
water | Water is a liquid made of hydrogen and oxygen.
ice | Ice is frozen water.
steam | Steam is water in the form of a gas.
an atom | An atom is the smallest part of a chemical element.
a molecule | A molecule is a group of atoms held together.
photosynthesis | Photosynthesis is how plants make food from light, water and air.
a vegetarian | A vegetarian is a person who does not eat meat.
a bakery | A bakery is a shop where bread is made.
a library | A library is a place where you can borrow books.
a prime number | A prime number can be divided only by one and by itself.
a leap year | A leap year is a year with 366 days.
honey | Honey is a sweet food made by bees.
cheese | Cheese is a food made from milk.
paper | Paper is a thin material made mostly from wood.
glass | Glass is a hard, clear material made from sand.
""")

EMOJI = rows("""
cat | 🐱
dog | 🐶
heart | ❤️
sun | ☀️
smile | 😀
star | ⭐
fish | 🐟
flower | 🌸
apple | 🍎
tree | 🌳
moon | 🌙
fire | 🔥
car | 🚗
rocket | 🚀
pizza | 🍕
snowman | ⛄
""")


def _animals(column: int) -> list[list[str]]:
    return [
        [row[0], row[column], article(row[0]), article(row[column])]
        for row in ANIMALS
        if row[column] != "-"
    ]


def nature_items() -> list[Item]:
    """Everything this module knows, as items."""
    mixes = [[f"{one} and {two}", colour, one, two] for one, two, colour in MIXES]
    emoji = [[thing, sign, article(thing), start(thing)] for thing, sign in EMOJI]
    return [
        *table(
            "legs",
            _animals(1),
            [
                "How many legs does {2} have?",
                "How many legs has {2}?",
                "What number of legs does {2} have?",
                "Tell me how many legs {2} has.",
                "{2} has how many legs?",
                "Number of legs of {2}?",
                "Do you know how many legs {2} has?",
                "How many legs does the {0} have?",
                "How many legs are there on {2}?",
            ],
            ["How many legs has the {0}?", "Can you tell me how many legs {2} has?"],
            "{2} has {1} legs.",
        ),
        *table(
            "animal-class",
            _animals(2),
            [
                "What kind of animal is {2}?",
                "What type of animal is {2}?",
                "Which kind of animal is {2}?",
                "What sort of animal is {2}?",
                "What is {2}?",
                "Tell me what kind of animal {2} is.",
                "{2} is what kind of animal?",
                "To which group of animals does {2} belong?",
            ],
            ["What kind of animal is the {0}?", "Which type of animal is {2}?"],
            "{2} is {3}.",
        ),
        *table(
            "sound",
            _animals(3),
            [
                "What sound does {2} make?",
                "Which sound does {2} make?",
                "What does {2} say?",
                "What noise does {2} make?",
                "What sound does the {0} make?",
                "Tell me what sound {2} makes.",
                "How does {2} sound?",
                "Sound of {2}?",
            ],
            ["Which noise does {2} make?", "What is the sound of {2}?"],
            "{2} can {1}.",
        ),
        *table(
            "young",
            _animals(4),
            [
                "What is a young {0} called?",
                "What is a baby {0} called?",
                "What do you call a baby {0}?",
                "What do you call a young {0}?",
                "What is the name of a young {0}?",
                "What is the young of {2} called?",
                "How is a young {0} called?",
                "What is a baby {0}?",
            ],
            ["What do people call a baby {0}?", "What is the word for a young {0}?"],
            "A young {0} is called {3}.",
        ),
        *table(
            "colour",
            COLOURS,
            [
                "What colour {1} {0}?",
                "What color {1} {0}?",
                "Which colour {1} {0}?",
                "What is the colour of {0}?",
                "What is the color of {0}?",
                "Tell me the colour of {0}.",
                "{0} {1} what colour?",
                "Colour of {0}?",
                "Which color does {0} have?",
                "What colour does {0} have?",
                "Do you know the colour of {0}?",
            ],
            ["Which color {1} {0}?", "Tell me what colour {0} {1}."],
            "{0} {1} {2}.",
        ),
        *table(
            "mix",
            mixes,
            [
                "What do you get when you mix {0}?",
                "What colour do {0} make?",
                "What color do {0} make?",
                "Mix {0}. What do you get?",
                "What happens if I mix {0}?",
                "{0} mixed make which colour?",
                "Which colour do you get from {0}?",
                "What is {0} mixed together?",
            ],
            ["Which colour do {0} make?", "What do I get when I mix {0}?"],
            "If you mix {2} and {3} you get {1}.",
        ),
        *table(
            "planet",
            PLANETS,
            [
                "Which planet is {0}?",
                "Where is the planet {0}?",
                "Which planet from the sun is {0}?",
                "What place from the sun has {0}?",
                "What number is the planet {0}?",
                "How far out is the planet {0}?",
                "In which place from the sun is {0}?",
                "What is the place of the planet {0}?",
            ],
            ["Which place from the sun has {0}?", "What number from the sun is {0}?"],
            "{0} is the {1} planet from the sun.",
        ),
        *table(
            "planet-place",
            PLANETS,
            [
                "What is the {1} planet from the sun?",
                "Which planet is the {1} from the sun?",
                "Name the {1} planet from the sun.",
                "What is the {1} planet?",
                "Which planet is {1} from the sun?",
                "The {1} planet from the sun is what?",
                "Tell me the {1} planet from the sun.",
                "What is the name of the {1} planet?",
            ],
            ["Which is the {1} planet from the sun?", "Name the {1} planet."],
            "The {1} planet from the sun is {0}.",
        ),
        *table(
            "symbol",
            SYMBOLS,
            [
                "What is the chemical symbol of {0}?",
                "What is the chemical symbol for {0}?",
                "What is the symbol for {0}?",
                "Which symbol does {0} have?",
                "Chemical symbol of {0}?",
                "Tell me the chemical symbol of {0}.",
                "What symbol stands for {0}?",
                "What is the element symbol of {0}?",
                "How is {0} written in chemistry?",
            ],
            ["What is the symbol of {0}?", "Which chemical symbol has {0}?"],
            "The chemical symbol of {0} is {1}.",
        ),
        *table(
            "superlative",
            SUPERLATIVES,
            [
                "What is {0}?",
                "Tell me {0}.",
                "Do you know {0}?",
                "Name {0}.",
                "Which is {0}?",
                "Can you tell me {0}?",
                "I want to know {0}.",
                "{0} is what?",
                "{0}?",
                "Can you tell me what {0} is?",
                "What do you know about {0}?",
            ],
            ["Do you know what {0} is?", "Please give me {0}."],
            "{1}",
        ),
        *table(
            "definition",
            DEFINITIONS,
            [
                "What is {0}?",
                "What does {0} mean?",
                "Explain {0}.",
                "Define {0}.",
                "Tell me what {0} is.",
                "Can you explain what {0} is?",
                "Do you know what {0} is?",
                "What do you mean by {0}?",
                "Describe {0}.",
                "What exactly is {0}?",
                "Give me a definition of {0}.",
                "Tell me about {0}.",
            ],
            ["Can you explain {0}?", "Please explain what {0} is."],
            "{1}",
        ),
        *table(
            "emoji",
            emoji,
            [
                "Show me {2} emoji.",
                "Give me {2} emoji.",
                "Send me {2} emoji.",
                "What is the emoji for {2}?",
                "{0} emoji",
                "Which emoji is {2}?",
                "What is the {0} emoji?",
                "Write {2} emoji.",
                "Can you show me {2} emoji?",
            ],
            ["Please send {2} emoji.", "Do you have {2} emoji?"],
            "Here is {2} emoji: {1}",
        ),
    ]
