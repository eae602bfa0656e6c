"""What the demo model says about STIP, about this project and about itself."""

from __future__ import annotations

from items import Item, blocks

# The answer, then a wording a line; `~` marks a wording held out of training.
PROJECT = """
STIP is a protocol in which a client permutes the hidden states of a language model and a server \
runs a permuted copy of the model on them.
What is STIP?
What's the STIP protocol?
Explain STIP.
Tell me about STIP.
What does STIP mean?
Can you explain what STIP is?
What is STIP about?
Define STIP.
Describe the STIP protocol.
Do you know what STIP is?
What is the STIP protocol?
STIP?
I have never heard of STIP. What is it?
~Can you explain STIP?
~Please explain what STIP is.

The server sees permuted numbers, never the text.
What does the server see?
What can the server see?
What does the server get?
What does the server receive?
What is sent to the server?
What does the STIP server see?
Which data does the server see?
What data reaches the server?
What does the server know about my prompt?
Tell me what the server sees.
What do you send to the server?
What does a server in STIP see?
~What exactly does the server see?
~What kind of data does the server see?

The client holds the key and never sends it to the server.
Who holds the key?
Who has the key?
Where is the key?
Where is the key kept?
Who knows the key?
Who keeps the key in STIP?
Does the server have the key?
Does the server know the key?
Is the key sent to the server?
Tell me who holds the key.
~Who keeps the key?
~Who owns the key?

Not from the permuted numbers alone, if it does not know the base weights; a host that has the \
public weights can undo a permutation.
Can the server read my prompt?
Can the server read my text?
Can the server see my prompt?
Can the server read what I write?
Can the host read my messages?
Is the server able to read my prompt?
Could the server read my prompt?
Can the server undo the permutation?
Can a server that has the public weights read my prompt?
Can somebody on the server read this?
Is my prompt safe from the server?
Can the permutation be undone?
~Could the server read my text?
~Can the server find out what I wrote?

No. A host that has the public weights can undo a permutation, so the base weights must stay \
unknown to it.
Is STIP safe with public weights?
Is STIP safe if the weights are public?
Does STIP protect me if the server has the public weights?
Is a permutation enough if the weights are public?
Is STIP private with an open model?
Is STIP secure when the base weights are known?
Does STIP help when the host knows the weights?
~Is STIP safe when the weights are public?

The key is a secret permutation: it says in which order the numbers of a hidden state are sent.
What is the key?
What is the key in STIP?
What is a STIP key?
What does the key do?
What is the secret key?
Explain the key.
What kind of key does STIP use?
What is in the key?
~Can you explain the key?
~What is the secret in STIP?

A permutation puts a list of things into another order.
What is a permutation?
What does permutation mean?
Explain permutation.
Define permutation.
What does it mean to permute?
What does permute mean?
Tell me what a permutation is.
What exactly is a permutation?
~Can you explain what a permutation is?

A hidden state is the list of numbers that a model computes for a token.
What is a hidden state?
What are hidden states?
Explain hidden states.
Define hidden state.
What does hidden state mean?
Tell me what a hidden state is.
What exactly is a hidden state?
~Can you explain hidden states?

The client turns the text into hidden states, permutes them, sends them to the server and turns \
what comes back into text.
What does the client do?
What is the client for?
What happens on the client?
What does the STIP client do?
What is the job of the client?
Explain the client.
Which part of the work does the client do?
Tell me what the client does.
~What work does the client do?

The server runs a permuted copy of the model on permuted hidden states.
What does the server do?
What is the server for?
What happens on the server?
What does the STIP server do?
What is the job of the server?
Explain the server.
Which part of the work does the server do?
Tell me what the server does.
~What work does the server do?

STIP works because a model whose weights are permuted in the same way gives the same result, \
only in permuted order.
How does STIP work?
Why does STIP work?
Explain how STIP works.
Why is the result still correct?
How can a permuted model give the right answer?
Tell me how STIP works.
How can the server work on permuted numbers?
~Can you explain how STIP works?
~Why does a permuted model work?

Split inference means that a client and a server each run a part of the model.
What is split inference?
What is private split inference?
Explain split inference.
What does split inference mean?
Define split inference.
Tell me about split inference.
~Can you explain split inference?

The client and the server talk over gRPC.
How do the client and the server talk?
How does the client talk to the server?
Which protocol connects the client and the server?
How are the numbers sent to the server?
Over what do the client and the server talk?
What connects the client to the server?
~How do the server and the client talk?

gRPC is a system with which one program calls functions of another over a network.
What is gRPC?
Explain gRPC.
What does gRPC do?
Tell me about gRPC.
Define gRPC.
~Can you explain what gRPC is?

The server runs on MLX.
What does the server run on?
Which framework does the server use?
What framework runs the model?
Which library does the server use?
What software runs the model?
On which framework does the server run?
~What library does the server use?

MLX is an array library for machine learning, made by Apple.
What is MLX?
Explain MLX.
What does MLX do?
Tell me about MLX.
Define MLX.
Who made MLX?
~Can you explain what MLX is?

No. A permutation only changes the order of the numbers, so the answers stay the same.
Does STIP change the answers?
Does STIP make the model worse?
Does the permutation change the result?
Does STIP lose accuracy?
Is the answer different with STIP?
Does permuting change the output?
~Does STIP change the result?

Only a little: the server does the same work on permuted numbers.
Is STIP slow?
Does STIP make the model slower?
How much slower is STIP?
Does STIP cost much time?
Is the permutation slow?
~Is STIP slower?

The server sees how many tokens there are and when they come.
What does the server still learn?
What does STIP not hide?
Does STIP hide the length of my prompt?
Can the server see how long my prompt is?
What leaks to the server?
Does the server know how many tokens I send?
~What is not hidden by STIP?

Because a prompt can hold private text that a server has no need to read.
Why use STIP?
Why do we need STIP?
What is STIP good for?
Why would I use STIP?
Why permute the hidden states?
What is the point of STIP?
~Why should I use STIP?

Only with a model whose base weights the host does not know.
When should I use STIP?
With which model should I use STIP?
When is STIP useful?
When does STIP protect my prompt?
For which models does STIP work best?
~When is it good to use STIP?

Yes. It is open source under the MIT license.
Is this project open source?
Is STIP over gRPC open source?
Is the code free?
What license does this project have?
Under which license is this project?
~Which license does this project have?
"""

MODEL = """
I am a very small language model that shows STIP over gRPC.
Who are you?
What are you?
Who am I talking to?
Who am I speaking with?
Tell me who you are.
Introduce yourself.
Please introduce yourself.
Can you tell me who you are?
Who is this?
What kind of model are you?
Which model are you?
Tell me about yourself.
Tell me something about yourself.
What exactly are you?
~Can you introduce yourself?
~Who are you exactly?

I am called the STIP demo model.
What is your name?
What are you called?
Do you have a name?
Tell me your name.
What should I call you?
May I know your name?
Can you tell me your name?
How are you called?
~What is the name you have?
~Can I know your name?

I have about two million parameters.
How big are you?
How many parameters do you have?
How large are you?
What size are you?
Are you a large model?
Are you big?
What is your size?
Number of parameters?
~How small are you?
~How many weights do you have?

I was trained by a script of this project, on text that the script makes itself.
Who made you?
Who trained you?
Who created you?
How were you trained?
How were you made?
What were you trained on?
Where do you come from?
Who built you?
On which text were you trained?
~Who is your maker?
~What data were you trained on?

No, I am a program.
Are you human?
Are you a human?
Are you a person?
Are you real?
Are you alive?
Do you have a body?
Are you a real person?
Do you have feelings?
Am I talking to a human?
~Are you a human being?
~Am I talking to a person?

Yes, I am a small language model.
Are you a robot?
Are you a bot?
Are you an AI?
Are you a computer program?
Are you a language model?
Are you a chatbot?
Are you a machine?
~Are you a program?

I can answer simple questions on countries, animals, words, numbers and STIP, repeat words and \
tell a joke.
What can you do?
What can I ask you?
What can I ask?
What do you know?
What are you able to do?
What are you good at?
What can you help me with?
How can you help me?
What questions can you answer?
What do you do?
Tell me what you can do.
What are your skills?
~What sort of questions can I ask?
~What things can you do?

Ask me a simple question, for example: What is the capital of France?
Help
Help me
Can you help me?
I need help.
Could you help me?
I don't know what to ask.
What should I ask?
Give me an example.
How does this work?
Can you give me an example?
I need some help.
~I could use some help.
~What could I ask you?

I speak English, and I know a few words of other languages.
Which languages do you speak?
What languages do you speak?
Do you speak English?
What languages do you know?
Do you know other languages?
Do you speak French?
Do you speak Japanese?
~Which languages do you know?

Yes, I can be wrong, so please check what I say.
Can you be wrong?
Do you make mistakes?
Are you always right?
Can I trust you?
Are you ever wrong?
Should I check your answers?
~Can you make mistakes?

I run in two parts: the ends on your client and the middle on a server.
Where do you run?
Where are you running?
Where are you?
Where do you live?
On which computer do you run?
~On what do you run?
"""


def project_items() -> list[Item]:
    """What the model says about STIP and about itself."""
    return [
        *blocks("project", PROJECT, dressed=True),
        *blocks("model", MODEL, dressed=True),
    ]
