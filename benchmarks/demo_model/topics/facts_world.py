"""Facts on countries, languages and people's works."""

from __future__ import annotations

from items import Item, rows, table

# country | capital | continent | language | currency; "-" where one short answer would mislead
COUNTRIES = rows("""
France | Paris | Europe | French | euro
Germany | Berlin | Europe | German | euro
Italy | Rome | Europe | Italian | euro
Spain | Madrid | Europe | Spanish | euro
Portugal | Lisbon | Europe | Portuguese | euro
the United Kingdom | London | Europe | English | pound
Ireland | Dublin | Europe | English and Irish | euro
the Netherlands | Amsterdam | Europe | Dutch | euro
Belgium | Brussels | Europe | Dutch, French and German | euro
Switzerland | Bern | Europe | - | Swiss franc
Austria | Vienna | Europe | German | euro
Poland | Warsaw | Europe | Polish | zloty
the Czech Republic | Prague | Europe | Czech | koruna
Slovakia | Bratislava | Europe | Slovak | euro
Hungary | Budapest | Europe | Hungarian | forint
Romania | Bucharest | Europe | Romanian | leu
Bulgaria | Sofia | Europe | Bulgarian | -
Greece | Athens | Europe | Greek | euro
Croatia | Zagreb | Europe | Croatian | euro
Serbia | Belgrade | Europe | Serbian | dinar
Slovenia | Ljubljana | Europe | Slovene | euro
Ukraine | Kyiv | Europe | Ukrainian | hryvnia
Russia | Moscow | - | Russian | ruble
Sweden | Stockholm | Europe | Swedish | krona
Norway | Oslo | Europe | Norwegian | krone
Denmark | Copenhagen | Europe | Danish | krone
Finland | Helsinki | Europe | Finnish and Swedish | euro
Iceland | Reykjavik | Europe | Icelandic | krona
Estonia | Tallinn | Europe | Estonian | euro
Latvia | Riga | Europe | Latvian | euro
Lithuania | Vilnius | Europe | Lithuanian | euro
Turkey | Ankara | - | Turkish | lira
Japan | Tokyo | Asia | Japanese | yen
China | Beijing | Asia | Chinese | yuan
South Korea | Seoul | Asia | Korean | won
North Korea | Pyongyang | Asia | Korean | won
India | New Delhi | Asia | - | rupee
Pakistan | Islamabad | Asia | Urdu and English | rupee
Nepal | Kathmandu | Asia | Nepali | rupee
Bangladesh | Dhaka | Asia | Bengali | taka
Thailand | Bangkok | Asia | Thai | baht
Vietnam | Hanoi | Asia | Vietnamese | dong
the Philippines | Manila | Asia | Filipino and English | peso
Malaysia | Kuala Lumpur | Asia | Malay | ringgit
Mongolia | Ulaanbaatar | Asia | Mongolian | -
Iran | Tehran | Asia | Persian | rial
Iraq | Baghdad | Asia | Arabic and Kurdish | dinar
Saudi Arabia | Riyadh | Asia | Arabic | riyal
Egypt | Cairo | Africa | Arabic | pound
Morocco | Rabat | Africa | - | dirham
Algeria | Algiers | Africa | - | dinar
Tunisia | Tunis | Africa | Arabic | dinar
Kenya | Nairobi | Africa | Swahili and English | shilling
Ethiopia | Addis Ababa | Africa | - | birr
Nigeria | Abuja | Africa | English | naira
Ghana | Accra | Africa | English | cedi
Senegal | Dakar | Africa | French | -
the United States | Washington, D.C. | North America | English | dollar
Canada | Ottawa | North America | English and French | dollar
Mexico | Mexico City | North America | Spanish | peso
Cuba | Havana | North America | Spanish | peso
Brazil | Brasilia | South America | Portuguese | real
Argentina | Buenos Aires | South America | Spanish | peso
Chile | Santiago | South America | Spanish | peso
Peru | Lima | South America | - | sol
Colombia | Bogota | South America | Spanish | peso
Venezuela | Caracas | South America | Spanish | bolivar
Uruguay | Montevideo | South America | Spanish | peso
Australia | Canberra | Oceania | English | dollar
New Zealand | Wellington | Oceania | English and Maori | dollar
""")

# language | hello
HELLO = rows("""
French | Bonjour
Spanish | Hola
German | Hallo
Italian | Ciao
Portuguese | Olá
Dutch | Hallo
Swedish | Hej
Norwegian | Hei
Danish | Hej
Finnish | Hei
Icelandic | Halló
Polish | Cześć
Czech | Ahoj
Hungarian | Szia
Romanian | Bună
Russian | Привет
Ukrainian | Привіт
Greek | Γειά σου
Turkish | Merhaba
Japanese | こんにちは
Chinese | 你好
Korean | 안녕하세요
Hindi | नमस्ते
Arabic | مرحبا
Hebrew | שלום
Thai | สวัสดี
Vietnamese | Xin chào
Indonesian | Halo
Swahili | Jambo
Latin | Salve
Esperanto | Saluton
Welsh | Helo
Hawaiian | Aloha
""")

# language | thank you
THANKS = rows("""
French | Merci
Spanish | Gracias
German | Danke
Italian | Grazie
Portuguese | Obrigado
Dutch | Dank je
Swedish | Tack
Norwegian | Takk
Danish | Tak
Finnish | Kiitos
Polish | Dziękuję
Czech | Děkuji
Russian | Спасибо
Greek | Ευχαριστώ
Turkish | Teşekkürler
Japanese | ありがとう
Chinese | 谢谢
Korean | 감사합니다
""")

# language | goodbye
GOODBYE = rows("""
French | Au revoir
Spanish | Adiós
German | Auf Wiedersehen
Italian | Arrivederci
Dutch | Tot ziens
Swedish | Hej då
Polish | Do widzenia
Russian | До свидания
Greek | Αντίο
Japanese | さようなら
Chinese | 再见
""")

# English | language | word
WORDS = rows("""
cat | French | chat
dog | French | chien
water | French | eau
bread | French | pain
house | French | maison
book | French | livre
cat | Spanish | gato
dog | Spanish | perro
water | Spanish | agua
bread | Spanish | pan
house | Spanish | casa
book | Spanish | libro
cat | German | Katze
dog | German | Hund
water | German | Wasser
bread | German | Brot
house | German | Haus
book | German | Buch
cat | Italian | gatto
dog | Italian | cane
water | Italian | acqua
bread | Italian | pane
house | Italian | casa
book | Italian | libro
cat | Japanese | 猫
dog | Japanese | 犬
water | Japanese | 水
book | Japanese | 本
""")

# work | past tense | person
WORKS = rows("""
Hamlet | wrote | William Shakespeare
Romeo and Juliet | wrote | William Shakespeare
Don Quixote | wrote | Miguel de Cervantes
Faust | wrote | Johann Wolfgang von Goethe
War and Peace | wrote | Leo Tolstoy
Pride and Prejudice | wrote | Jane Austen
Frankenstein | wrote | Mary Shelley
Dracula | wrote | Bram Stoker
Moby Dick | wrote | Herman Melville
Oliver Twist | wrote | Charles Dickens
The Hobbit | wrote | J. R. R. Tolkien
Alice in Wonderland | wrote | Lewis Carroll
the Mona Lisa | painted | Leonardo da Vinci
The Starry Night | painted | Vincent van Gogh
Guernica | painted | Pablo Picasso
The Scream | painted | Edvard Munch
the telephone | invented | Alexander Graham Bell
dynamite | invented | Alfred Nobel
the World Wide Web | invented | Tim Berners-Lee
penicillin | discovered | Alexander Fleming
radium | discovered | Marie and Pierre Curie
the theory of relativity | developed | Albert Einstein
the theory of evolution | developed | Charles Darwin
the Linux kernel | created | Linus Torvalds
the Python language | created | Guido van Rossum
""")


def _with(column: int) -> list[list[str]]:
    return [row for row in COUNTRIES if row[column] != "-"]


def world_items() -> list[Item]:
    """Everything this module knows, as items."""
    say = [
        'How do you say "{phrase}" in {{0}}?',
        "How do you say {phrase} in {{0}}?",
        "How do I say {phrase} in {{0}}?",
        "How does one say {phrase} in {{0}}?",
        "What is {phrase} in {{0}}?",
        "What is the word for {phrase} in {{0}}?",
        "What is the {{0}} word for {phrase}?",
        "Translate {phrase} into {{0}}.",
        "Translate {phrase} to {{0}}.",
        "Say {phrase} in {{0}}.",
        "{phrase} in {{0}}?",
        "How would you say {phrase} in {{0}}?",
        "Tell me how to say {phrase} in {{0}}.",
        "How do people say {phrase} in {{0}}?",
        "In {{0}}, how do you say {phrase}?",
    ]
    say_held = [
        "How can I say {phrase} in {{0}}?",
        "Do you know how to say {phrase} in {{0}}?",
        "Can you say {phrase} in {{0}}?",
    ]

    def phrase(kind: str, cells: list[list[str]], english: str) -> list[Item]:
        return table(
            kind,
            cells,
            [wording.format(phrase=english) for wording in say],
            [wording.format(phrase=english) for wording in say_held],
            'In {0} you say "{1}".',
        )

    return [
        *table(
            "capital",
            COUNTRIES,
            [
                "What is the capital of {0}?",
                "What is the capital city of {0}?",
                "Which city is the capital of {0}?",
                "Tell me the capital of {0}.",
                "Name the capital of {0}.",
                "Do you know the capital of {0}?",
                "Capital of {0}?",
                "What city is the capital of {0}?",
                "The capital of {0} is what?",
                "Can you tell me the capital of {0}?",
                "What is {0}'s capital?",
                "I want to know the capital of {0}.",
                "What is the name of the capital of {0}?",
                "{0} has which capital?",
                "Can you tell me what the capital of {0} is?",
            ],
            [
                "Which is the capital city of {0}?",
                "Could you name the capital of {0}?",
                "Do you know what the capital of {0} is?",
            ],
            "The capital of {0} is {1}.",
        ),
        *table(
            "capital-of",
            COUNTRIES,
            [
                "Which country has the capital {1}?",
                "{1} is the capital of which country?",
                "What country is {1} the capital of?",
                "Which country is {1} the capital of?",
                "Of which country is {1} the capital?",
                "What is {1} the capital of?",
                "{1} is the capital of what?",
                "Whose capital is {1}?",
            ],
            ["{1} is the capital of what country?", "Which country's capital is {1}?"],
            "{1} is the capital of {0}.",
        ),
        *table(
            "continent",
            _with(2),
            [
                "Where is {0}?",
                "On which continent is {0}?",
                "Which continent is {0} in?",
                "What continent is {0} in?",
                "What continent is {0} on?",
                "Where can I find {0}?",
                "In which part of the world is {0}?",
                "{0} is on which continent?",
                "Where in the world is {0}?",
                "Tell me where {0} is.",
            ],
            ["Which continent is {0} on?", "Where is {0} located?"],
            "{0} is in {2}.",
        ),
        *table(
            "language",
            _with(3),
            [
                "What language do people speak in {0}?",
                "Which language is spoken in {0}?",
                "What language is spoken in {0}?",
                "What do people speak in {0}?",
                "Which language do they speak in {0}?",
                "What is the language of {0}?",
                "What language do they speak in {0}?",
                "Language of {0}?",
                "What is the main language in {0}?",
                "Which languages are spoken in {0}?",
            ],
            ["Which language do people speak in {0}?", "What is spoken in {0}?"],
            "People in {0} speak {3}.",
        ),
        *table(
            "currency",
            _with(4),
            [
                "What is the currency of {0}?",
                "What currency does {0} use?",
                "Which currency does {0} use?",
                "What money do they use in {0}?",
                "What money is used in {0}?",
                "Which currency is used in {0}?",
                "Currency of {0}?",
                "What do people pay with in {0}?",
                "Tell me the currency of {0}.",
                "What is the money of {0} called?",
            ],
            ["What currency is used in {0}?", "Name the currency of {0}."],
            "The currency of {0} is the {4}.",
        ),
        *phrase("hello", HELLO, "hello"),
        *phrase("thanks-in", THANKS, "thank you"),
        *phrase("goodbye-in", GOODBYE, "goodbye"),
        *table(
            "translate",
            WORDS,
            [
                "What is {0} in {1}?",
                "How do you say {0} in {1}?",
                'How do you say "{0}" in {1}?',
                "Translate {0} into {1}.",
                "What is the {1} word for {0}?",
                "Say {0} in {1}.",
                "What does {0} mean in {1}?",
                "Translate the word {0} to {1}.",
                "How do I say {0} in {1}?",
                "What is the word for {0} in {1}?",
            ],
            ["What do you call {0} in {1}?", 'What is "{0}" in {1}?'],
            'The {1} word for {0} is "{2}".',
        ),
        *table(
            "works",
            WORKS,
            [
                "Who {1} {0}?",
                "Do you know who {1} {0}?",
                "Tell me who {1} {0}.",
                "Which person {1} {0}?",
                "By whom was {0} made?",
                "Who was it that {1} {0}?",
                "What is the name of the person who {1} {0}?",
                "Who is the maker of {0}?",
                "{0}: who {1} it?",
            ],
            ["Can you tell me who {1} {0}?", "I wonder who {1} {0}."],
            "{2} {1} {0}.",
        ),
    ]
