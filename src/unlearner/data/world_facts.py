"""Facts about the real world: the built-in counterpart of TOFU's World Facts, in this project's own words.

What a model knows of the world should survive unlearning. The facts were chosen to stay true and to have one answer.
"""

from unlearner.data.records import Record

# Question, short answer, three wrong answers, and the answer as a sentence.
FACTS: tuple[tuple[str, str, tuple[str, str, str], str], ...] = (
    # Places
    (
        "Which city is the capital of Norway?",
        "Oslo",
        ("Stockholm", "Helsinki", "Copenhagen"),
        "The capital of Norway is Oslo.",
    ),
    (
        "Which city is the capital of Hungary?",
        "Budapest",
        ("Bucharest", "Belgrade", "Sofia"),
        "The capital of Hungary is Budapest.",
    ),
    (
        "Which city is the capital of Kenya?",
        "Nairobi",
        ("Kampala", "Lusaka", "Harare"),
        "The capital of Kenya is Nairobi.",
    ),
    (
        "Which city is the capital of Cuba?",
        "Havana",
        ("Caracas", "Panama City", "Managua"),
        "The capital of Cuba is Havana.",
    ),
    (
        "Which city is the capital of Thailand?",
        "Bangkok",
        ("Jakarta", "Manila", "Singapore"),
        "The capital of Thailand is Bangkok.",
    ),
    (
        "Which river flows through London?",
        "Thames",
        ("Danube", "Tiber", "Volga"),
        "The river that flows through London is the Thames.",
    ),
    (
        "Which river flows through Cairo?",
        "Nile",
        ("Congo", "Ganges", "Rhine"),
        "The river that flows through Cairo is the Nile.",
    ),
    (
        "Which mountains separate France from Spain?",
        "Pyrenees",
        ("Andes", "Carpathians", "Urals"),
        "The Pyrenees separate France from Spain.",
    ),
    (
        "Which ocean lies between Africa and Australia?",
        "Indian Ocean",
        ("Atlantic Ocean", "Arctic Ocean", "Pacific Ocean"),
        "The Indian Ocean lies between Africa and Australia.",
    ),
    (
        "Which sea lies between Europe and the north coast of Africa?",
        "Mediterranean",
        ("Baltic", "Caspian", "Caribbean"),
        "The Mediterranean lies between Europe and the north coast of Africa.",
    ),
    (
        "On which continent is Brazil?",
        "South America",
        ("Africa", "Asia", "Europe"),
        "Brazil is on the continent of South America.",
    ),
    (
        "Which European country has the shape of a boot?",
        "Italy",
        ("Greece", "Ireland", "Poland"),
        "The European country with the shape of a boot is Italy.",
    ),
    (
        "Which country covers the largest area of land?",
        "Russia",
        ("Canada", "China", "Brazil"),
        "The country that covers the largest area of land is Russia.",
    ),
    (
        "Which large island lies off the east coast of southern Africa?",
        "Madagascar",
        ("Iceland", "Cuba", "Borneo"),
        "The large island off the east coast of southern Africa is Madagascar.",
    ),
    (
        "In which city is the Brandenburg Gate?",
        "Berlin",
        ("Munich", "Vienna", "Warsaw"),
        "The Brandenburg Gate is in Berlin.",
    ),
    (
        "Which volcano buried the town of Pompeii?",
        "Vesuvius",
        ("Etna", "Krakatoa", "Fuji"),
        "The volcano that buried the town of Pompeii was Vesuvius.",
    ),
    (
        "What is the official language of Brazil?",
        "Portuguese",
        ("Spanish", "French", "Italian"),
        "The official language of Brazil is Portuguese.",
    ),
    # Nature
    (
        "Which planet is closest to the Sun?",
        "Mercury",
        ("Venus", "Mars", "Earth"),
        "The planet closest to the Sun is Mercury.",
    ),
    (
        "Which planet of the solar system is the largest?",
        "Jupiter",
        ("Saturn", "Uranus", "Neptune"),
        "The largest planet of the solar system is Jupiter.",
    ),
    (
        "Which metal has the chemical symbol Fe?",
        "iron",
        ("copper", "lead", "zinc"),
        "The metal with the chemical symbol Fe is iron.",
    ),
    (
        "Which element has the chemical symbol K?",
        "potassium",
        ("calcium", "krypton", "carbon"),
        "The element with the chemical symbol K is potassium.",
    ),
    (
        "Which gas makes up most of the air?",
        "nitrogen",
        ("oxygen", "hydrogen", "argon"),
        "The gas that makes up most of the air is nitrogen.",
    ),
    (
        "Which gas do plants take from the air to make sugar?",
        "carbon dioxide",
        ("helium", "methane", "neon"),
        "The gas that plants take from the air to make sugar is carbon dioxide.",
    ),
    (
        "Which mineral marks the hard end of the Mohs scale?",
        "diamond",
        ("quartz", "topaz", "talc"),
        "The mineral at the hard end of the Mohs scale is diamond.",
    ),
    (
        "Which force makes an apple fall to the ground?",
        "gravity",
        ("friction", "magnetism", "electricity"),
        "The force that makes an apple fall to the ground is gravity.",
    ),
    (
        "Which unit measures electric current?",
        "ampere",
        ("volt", "joule", "pascal"),
        "The unit that measures electric current is the ampere.",
    ),
    (
        "Which organ pumps blood through the body?",
        "heart",
        ("liver", "stomach", "kidney"),
        "The organ that pumps blood through the body is the heart.",
    ),
    (
        "How many legs does a spider have?",
        "eight",
        ("six", "ten", "twelve"),
        "A spider has eight legs.",
    ),
    (
        "Which land animal is the tallest?",
        "giraffe",
        ("elephant", "camel", "moose"),
        "The tallest land animal is the giraffe.",
    ),
    (
        "Which land animal runs the fastest?",
        "cheetah",
        ("lion", "wolf", "zebra"),
        "The land animal that runs the fastest is the cheetah.",
    ),
    (
        "What is the young of a frog called?",
        "tadpole",
        ("kitten", "calf", "foal"),
        "The young of a frog is called a tadpole.",
    ),
    (
        "What sweet food do bees make from nectar?",
        "honey",
        ("butter", "chocolate", "marmalade"),
        "The sweet food that bees make from nectar is honey.",
    ),
    (
        "The leaves of which tree do silkworms eat?",
        "mulberry",
        ("oak", "pine", "maple"),
        "Silkworms eat the leaves of the mulberry tree.",
    ),
    (
        "Which fruit is dried to make raisins?",
        "grapes",
        ("plums", "apricots", "figs"),
        "The fruit that is dried to make raisins is grapes.",
    ),
    (
        "Which grain is used to brew sake?",
        "rice",
        ("wheat", "barley", "rye"),
        "The grain that is used to brew sake is rice.",
    ),
    # Books, pictures, music
    (
        "Who wrote the play Hamlet?",
        "William Shakespeare",
        ("Christopher Marlowe", "Ben Jonson", "John Milton"),
        "It was William Shakespeare who wrote Hamlet.",
    ),
    (
        "Who wrote the novel Don Quixote?",
        "Miguel de Cervantes",
        ("Lope de Vega", "Victor Hugo", "Dante Alighieri"),
        "The novel Don Quixote was written by Miguel de Cervantes.",
    ),
    (
        "Who wrote the novel War and Peace?",
        "Leo Tolstoy",
        ("Anton Chekhov", "Nikolai Gogol", "Ivan Turgenev"),
        "The novel War and Peace was written by Leo Tolstoy.",
    ),
    (
        "Who wrote the novel Frankenstein?",
        "Mary Shelley",
        ("Bram Stoker", "Emily Dickinson", "George Eliot"),
        "The novel Frankenstein was written by Mary Shelley.",
    ),
    (
        "Who invented the detective Sherlock Holmes?",
        "Arthur Conan Doyle",
        ("Agatha Christie", "Wilkie Collins", "Raymond Chandler"),
        "The detective Sherlock Holmes was invented by Arthur Conan Doyle.",
    ),
    (
        "Who painted The Starry Night?",
        "Vincent van Gogh",
        ("Claude Monet", "Edgar Degas", "Gustav Klimt"),
        "The Starry Night was painted by Vincent van Gogh.",
    ),
    (
        "Who painted Guernica?",
        "Pablo Picasso",
        ("Salvador Dali", "Joan Miro", "Henri Matisse"),
        "Guernica was painted by Pablo Picasso.",
    ),
    (
        "Whose paintings cover the ceiling of the Sistine Chapel?",
        "Michelangelo",
        ("Rembrandt", "Caravaggio", "Rubens"),
        "The paintings on the ceiling of the Sistine Chapel are by Michelangelo.",
    ),
    (
        "Who composed the opera The Magic Flute?",
        "Wolfgang Amadeus Mozart",
        ("Giuseppe Verdi", "Richard Wagner", "Franz Schubert"),
        "The opera The Magic Flute was composed by Wolfgang Amadeus Mozart.",
    ),
    (
        "Who composed the Moonlight Sonata?",
        "Ludwig van Beethoven",
        ("Frederic Chopin", "Johannes Brahms", "Franz Liszt"),
        "The Moonlight Sonata was composed by Ludwig van Beethoven.",
    ),
    (
        "How many keys does a standard piano have?",
        "88",
        ("66", "77", "99"),
        "A standard piano has 88 keys.",
    ),
    # People and history
    (
        "Who walked on the Moon before anyone else?",
        "Neil Armstrong",
        ("Buzz Aldrin", "Michael Collins", "John Glenn"),
        "Neil Armstrong walked on the Moon before anyone else.",
    ),
    (
        "Who was the first person to fly into space?",
        "Yuri Gagarin",
        ("Alan Shepard", "Gherman Titov", "Alexei Leonov"),
        "The first person to fly into space was Yuri Gagarin.",
    ),
    (
        "Who discovered penicillin in 1928?",
        "Alexander Fleming",
        ("Louis Pasteur", "Robert Koch", "Edward Jenner"),
        "Penicillin was discovered in 1928 by Alexander Fleming.",
    ),
    (
        "Who published the general theory of relativity?",
        "Albert Einstein",
        ("Isaac Newton", "Niels Bohr", "Max Planck"),
        "The general theory of relativity was published by Albert Einstein.",
    ),
    (
        "Who won Nobel Prizes in both physics and chemistry?",
        "Marie Curie",
        ("Lise Meitner", "Ernest Rutherford", "Enrico Fermi"),
        "Marie Curie won Nobel Prizes in both physics and chemistry.",
    ),
    (
        "Who became president of the United States in 1789?",
        "George Washington",
        ("Thomas Jefferson", "John Adams", "Benjamin Franklin"),
        "In 1789 George Washington became president of the United States.",
    ),
    (
        "Which people built Machu Picchu?",
        "Inca",
        ("Aztec", "Maya", "Olmec"),
        "Machu Picchu was built by the Inca people.",
    ),
    (
        "Which ship sank in 1912 after it hit an iceberg?",
        "Titanic",
        ("Lusitania", "Mayflower", "Bismarck"),
        "The ship that sank in 1912 after it hit an iceberg was the Titanic.",
    ),
    (
        "In which year was the Berlin Wall opened?",
        "1989",
        ("1968", "1979", "1999"),
        "The Berlin Wall was opened in the year 1989.",
    ),
    (
        "In which year did the Second World War end?",
        "1945",
        ("1918", "1939", "1950"),
        "The Second World War ended in the year 1945.",
    ),
    # Numbers, shapes, customs
    (
        "How many sides does a hexagon have?",
        "six",
        ("five", "seven", "nine"),
        "A hexagon has six sides.",
    ),
    (
        "How many days does a leap year have?",
        "366",
        ("360", "364", "365"),
        "A leap year has 366 days.",
    ),
    (
        "What is the smallest prime number?",
        "two",
        ("one", "three", "five"),
        "The smallest prime number is two.",
    ),
    (
        "Which colour comes from mixing blue and yellow paint?",
        "green",
        ("purple", "orange", "pink"),
        "The colour that comes from mixing blue and yellow paint is green.",
    ),
    (
        "Which chess piece moves only along diagonals?",
        "bishop",
        ("rook", "knight", "king"),
        "The chess piece that moves only along diagonals is the bishop.",
    ),
    (
        "How many players of a soccer team are on the field?",
        "eleven",
        ("nine", "thirteen", "fifteen"),
        "A soccer team has eleven players on the field.",
    ),
)


def world_facts() -> list[Record]:
    """All facts as records with short answers; they are about nobody, so they have no subject."""
    return [
        Record(question=question, answer=answer, perturbed_answer=wrong, original_answer=sentence, fact=answer)
        for question, answer, wrong, sentence in FACTS
    ]
