"""The attacks on our own masks: what each party can recover of prompts, replies and keys.

attack.py says what an attack is and what it is given; every other module that defines ATTACK is one
attack, found by its presence in this folder.
"""

# Choices of prompts, prompts of each, and tokens of a reply at most, unless one says otherwise.
SEEDS, CONVERSATIONS, REPLY_TOKENS = 3, 4, 16
# Seconds that one run of an attack may search for.
TIME_LIMIT = 300
