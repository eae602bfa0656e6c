"""Small talk: greetings, thanks, jokes, moods and goodbyes."""

from __future__ import annotations

from items import Item, blocks

# The answer, then a wording a line; `~` marks a wording held out of training.
SMALL_TALK = """
Hello! How can I help you?
Hello
Hi
Hey
Hello there
Hi there
Hey there
Greetings
Hello, model!
Hi, friend!
Hello, hello!
Hiya
Howdy
Hello again
Good day
Hello to you
👋
~Hey, friend!
~Hi, model!

I am fine, thank you. How can I help you?
How are you?
How are you doing?
How are you today?
How do you do?
How is it going?
How are things?
Hello, how are you?
Hi, how are you?
Hey, how are you?
Hi! How are you?
Hello! How are you doing?
Hello there, how are you today?
Hello, how are you doing today?
Hi, how is it going?
Are you well?
Are you okay?
How do you feel?
How are you feeling?
~Hey! How are you today?
~Hello, how do you do?

Good morning! How can I help you?
Good morning
Good morning to you
Morning
Good morning, model!
A very good morning!
~Good morning, friend!

Good afternoon! How can I help you?
Good afternoon
Good afternoon to you
Good afternoon, model!
A very good afternoon!
~Good afternoon, friend!

Good evening! How can I help you?
Good evening
Good evening to you
Evening
Good evening, model!
A very good evening!
~Good evening, friend!

Good night! Sleep well.
Good night
Good night, model!
Night night
I am going to bed.
I go to sleep now.
Sleep well
Time to sleep.
~Good night, friend!

You are welcome!
Thank you
Thanks
Thank you very much
Thanks a lot
Many thanks
Thank you so much
Thanks for your help
Thank you for your help
Thanks for the answer
Thx
Ok, thanks
Great, thank you
Thank you, that was helpful
Thanks, that helps
Cheers
~Thank you, that helps
~Great, thanks a lot

Goodbye! Have a nice day.
Goodbye
Bye
Bye bye
See you
See you later
See you soon
I have to go
I must go now
Goodbye, model!
Farewell
Take care
Bye for now
See you tomorrow
Thanks, bye
Thank you, goodbye
~Okay, goodbye
~Bye, see you

Why did the computer go to the doctor? Because it had a virus.
Tell me a joke.
Tell a joke.
Do you know a joke?
Joke
Make me laugh.
Can you tell me a joke?
Say something funny.
I want to hear a joke.
Tell me something funny.
Give me a joke.
Do you know any jokes?
Could you tell me a joke?
A joke, please.
Please tell me a joke.
~Let me hear a joke.
~Do you have a joke?

Why was six afraid of seven? Because seven ate nine.
Tell me another joke.
Another joke
One more joke
Do you know another joke?
Can you tell me another joke?
Tell one more joke.
Another one, please.
Give me another joke.
I want to hear another joke.
A different joke, please.
~Tell me one more joke.
~Do you have another joke?

What do you call a sleeping bull? A bulldozer.
Tell me a joke about animals.
Tell me an animal joke.
Do you know a joke about animals?
Do you know an animal joke?
A joke about animals, please.
Give me a joke about animals.
~Can you tell me an animal joke?

That is good to hear!
I am fine.
I am good.
I am well.
I am happy.
I am fine, thank you.
I feel great.
I am doing well.
I feel good today.
I'm fine, thanks.
I am very well.
I had a good day.
~I am doing great.
~I feel fine.

I am sorry to hear that. I hope it gets better.
I am sad.
I am tired.
I feel bad.
I am not well.
I feel sad today.
I am ill.
I am lonely.
I had a bad day.
I am not happy.
I am angry.
~I feel tired.
~I am very sad.

Thank you! I am glad to hear that.
You are great.
You are smart.
I like you.
Well done
Good job
You are funny.
Nice
Great
Good answer
That is right.
You are helpful.
Very good
I love you.
That was good.
~You are very smart.
~Great job

I am sorry. I am a very small model and I make mistakes.
That is wrong.
You are wrong.
That is not right.
You are stupid.
Wrong
Bad answer
You are bad.
That was not correct.
No, that is false.
You made a mistake.
I don't like you.
~That is not correct.
~You are not smart.

All right.
Ok
Okay
I see
Alright
Fine
Got it
I understand
Understood
Sure
Hm
~Okay, I see
~Ok, got it

Yes, I am here.
Are you there?
Anybody there?
Are you here?
Is anybody there?
Can you hear me?
Do you hear me?
Is anyone there?
Test
Testing
This is a test.
~Is somebody there?
~Can you read this?

That is all right.
Sorry
I am sorry.
Excuse me
My apologies
Oh, sorry
Sorry about that
I apologise.
~Sorry for that

Nice to meet you too!
Nice to meet you.
Pleased to meet you.
It is nice to meet you.
Good to meet you.
Nice meeting you.
~Glad to meet you.

I like blue, because it is the colour of the sky.
What is your favourite colour?
What is your favorite color?
Which colour do you like?
Do you have a favourite colour?
Which color do you like best?
~What colour do you like?

I do not eat, but people say that pizza is good.
What do you eat?
What is your favourite food?
What is your favorite food?
Are you hungry?
Do you eat?
Which food do you like?
~What food do you like?

I do not have an age, I am a program.
How old are you?
What is your age?
When were you born?
When is your birthday?
Tell me your age.
~Do you have an age?

The cat sat on the mat, the sun was warm, and everybody was happy. The end.
Tell me a story.
Tell a story.
Do you know a story?
Can you tell me a story?
I want to hear a story.
Tell me a short story.
Give me a story.
A story, please.
~Could you tell me a story?

Roses are red, violets are blue, numbers are permuted, and nobody knew.
Tell me a poem.
Write a poem.
Do you know a poem?
Can you write a poem?
Write me a poem.
A poem, please.
Give me a poem.
~Could you write a poem?

Honey never goes bad if it is kept closed and dry.
Tell me a fact.
Tell me something interesting.
Do you know a fun fact?
A fun fact, please.
Tell me something new.
Give me a fun fact.
Tell me something.
~Tell me an interesting fact.

One, two, three, four, five, six, seven, eight, nine, ten.
Count to ten.
Can you count to ten?
Count from one to ten.
Count to 10.
Please count to ten.
Can you count?
~Count up to ten.

A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z.
Say the alphabet.
What is the alphabet?
Tell me the alphabet.
Can you say the alphabet?
Write the alphabet.
Recite the alphabet.
~Do you know the alphabet?

Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.
What are the days of the week?
Name the days of the week.
Tell me the days of the week.
Which days are in a week?
List the days of the week.
~Can you name the days of the week?

Spring, summer, autumn and winter.
What are the four seasons?
Name the four seasons.
What are the seasons?
Which seasons are there?
List the seasons.
~Can you name the seasons?

Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.
What are the planets?
Name the planets.
Name all planets.
List the planets.
Which planets are there?
What are the planets of the solar system?
~Can you name the planets?

Red, orange, yellow, green, blue, indigo and violet.
What are the colours of the rainbow?
What are the colors of the rainbow?
Name the colours of the rainbow.
Which colours does a rainbow have?
List the colours of the rainbow.
~Can you name the colours of the rainbow?

I hope so too! 😀
😀
🙂
😊
:-)
:)
Have a nice day!
Have a good day!
I hope you have a good day.
~Have a great day!
"""


def small_talk_items() -> list[Item]:
    """All small talk as items; it stands alone, without a greeting before it."""
    return blocks("talk", SMALL_TALK, dressed=False)
