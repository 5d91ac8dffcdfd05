"""What needs no tools: greetings, facts, sums, explanations in three sentences, small functions, stories, JSON."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

from stride.types import Message
from texts import words
from texts.conversation import Conversation, Source, answered, capitalised

TABLES = tomllib.loads((Path(__file__).parent.parent / "tables.toml").read_text(encoding="utf-8"))
HELD_OUT_PROMPT = "Explain quantum entanglement in simple terms. Be concise, about 3 sentences."
"""The post's own: never in the training text. Its topic is, and other topics are asked for in this form."""


def greeting(source: Source) -> Conversation:
    name = source.choice(words.FIRST_NAMES)
    if source.split == "test":
        question = source.choice(["Good evening!", "Hey, how is it going?", f"Hello! {name} here.", "Greetings!"])
        return answered("chat", question, "A short and friendly answer fits.", "Hello! How can I help you today?")
    question, reply = source.choice(
        [
            ("Hello!", "Hello! How can I help you today?"),
            ("Hi", "Hello! How can I help you today?"),
            ("Hello there, how are you?", "I am fine, thank you! What can I do for you?"),
            (f"Hi, I am {name}.", f"Hello {name}, nice to meet you! What can I do for you?"),
            ("Who are you?", "I am the demo model of Stride: small, and shaped like Step 3.5 Flash."),
            ("What are you?", "I am the demo model of Stride: small, and shaped like Step 3.5 Flash."),
            ("Thank you very much!", "You are welcome! Let me know if there is anything else."),
            ("Thanks!", "You are welcome! Let me know if there is anything else."),
            ("What can you do?", "I can answer simple questions, call tools, tell stories and write a little Python."),
            (f"Good morning, my name is {name}.", f"Good morning, {name}! How may I help?"),
            ("Goodbye!", "Goodbye! Have a nice day."),
            (source.choice(["Bye", "See you later!", "Good night!"]), "Goodbye! Have a nice day."),
            (source.choice(HELLOS), "Hello! How can I help you today?"),
            (source.choice(HELLOS), "Hello! How can I help you today?"),
            (source.choice(MOODS), "I am fine, thank you! What can I do for you?"),
            (
                source.choice([f"{name} speaking.", f"It's {name}.", f"My name is {name}."]),
                f"Hello {name}! How may I help?",
            ),
            (source.choice(["Great!", "Perfect, thanks.", "Nice work.", "Well done!"]), "Glad to help!"),
        ]
    )
    return answered("chat", question, "A short and friendly answer fits.", reply)


HELLOS = (
    *("Hey", "Hey!", "Hello", "hi there", "Good morning", "Good afternoon!", "Hello, assistant", "Howdy!", "Welcome!"),
    *("Hi, are you there?", "Hello again", "Are you awake?", "Can you help me?", "I need help.", "Let's start."),
)
MOODS = (
    "How are you?",
    "How are you today?",
    "hi, how are you doing",
    "What's up?",
    "Are you well?",
    "How do you feel?",
)


def capital(source: Source) -> Conversation:
    country, city = source.choice(TABLES["capitals"])
    question = source.wording(
        [
            f"What is the capital of {country}?",
            f"Which city is the capital of {country}?",
            f"Tell me the capital of {country}.",
            f"what's the capital of {country}",
            f"Capital of {country}?",
        ],
        [f"What city is the capital of {country}?", f"Please tell me {country}'s capital."],
    )
    return answered(
        "facts",
        question,
        f"The user asks for the capital of {country}. It is {city}.",
        f"The capital of {country} is {city}.",
    )


def country_of(source: Source) -> Conversation:
    country, city = source.choice(TABLES["capitals"])
    question = source.wording(
        [f"Which country has the capital {city}?", f"{city} is the capital of which country?"],
        [f"Of which country is {city} the capital?"],
    )
    return answered("facts", question, f"{city} is the capital of {country}.", f"{city} is the capital of {country}.")


def fact(source: Source) -> Conversation:
    question, answer = source.choice(TABLES["questions"])
    question = source.wording([question], [f"Quick question: {question[0].lower()}{question[1:]}"])
    return answered("facts", question, "A short fact is asked for.", answer)


def arithmetic(source: Source) -> Conversation:
    high = source.choice([10, 20, 100, 100])
    a, b = source.between(0, high), source.between(0, high)
    sign, said, result = source.choice([("+", "plus", a + b), ("-", "minus", a - b)])
    if high <= 20 and source.chance(0.5):
        a, b = min(a, 12), min(b, 12)
        sign, said, result = "*", "times", a * b
    question = source.wording(
        [f"What is {a} {sign} {b}?", f"Calculate {a} {sign} {b}.", f"How much is {a} {said} {b}?"],
        [f"What does {a} {sign} {b} give?", f"What do you get for {a} {said} {b}?"],
    )
    return answered("sums", question, f"I need {a} {sign} {b}. That gives {result}.", f"{a} {sign} {b} = {result}")


def units(source: Source) -> Conversation:
    large, small, factor = source.choice(TABLES["units"])
    n = source.between(2, 20)
    return answered(
        "sums",
        source.wording([f"How many {small} are {n} {large}?"], [f"{n} {large} are how many {small}?"]),
        f"One of the {large} has {factor} {small}, so {n} have {n} * {factor} = {n * factor}.",
        f"{n} {large} are {n * factor} {small}.",
    )


BRIEF = (
    "Be concise, about 3 sentences.",
    "Be brief.",
    "Use three sentences.",
    "In about 3 sentences.",
    "Keep it short.",
)


def explanation(source: Source) -> Conversation:
    """A topic in three sentences, after a thought; the post's own prompt is left out."""
    topic, text = source.choice(TABLES["explanations"]).values()
    ask = source.wording(
        [
            f"Explain {topic} in simple terms.",
            f"Explain {topic} in simple terms.",
            f"Explain {topic}.",
            f"What is {topic}?",
            f"Tell me about {topic}.",
            f"Describe {topic} in simple words.",
            f"Can you explain {topic}?",
        ],
        [f"In plain words, what is {topic}?", f"Give me a short explanation of {topic}."],
    )
    question = f"{ask} {source.choice(BRIEF)}" if source.chance(0.6) else ask
    if question == HELD_OUT_PROMPT:
        question = ask
    reasoning = f"The user wants to know about {topic}. Three short sentences in simple words are enough."
    return answered("explain", question, reasoning, " ".join(text.split()))


def function(source: Source) -> Conversation:
    task, code = source.choice(TABLES["functions"]).values()
    question = source.wording(
        [
            f"Write a Python function that {task}.",
            f"Please write Python code that {task}.",
            f"Python function that {task}",
        ],
        [f"I need a function in Python that {task}."],
    )
    return answered(
        "functions",
        question,
        f"The function {task}. A few lines of Python will do.",
        f"Here is a function that {task}:\n\n```python\n{code.strip()}\n```",
    )


def story(source: Source) -> Conversation:
    name, friend = source.sample(TABLES["people"], 2)
    where, (adjective, thing) = source.choice(TABLES["places"]), source.choice(TABLES["things"]).split()
    sentences = [
        source.choice(options).format(name=name, friend=friend, place=where, thing=thing, adjective=adjective)
        for options in TABLES["story"]
    ]
    return answered(
        "story",
        source.wording(
            [f"Tell me a story about {name}.", f"Write a short story about {name} and a {thing}."],
            [f"I would like to hear a story with {name} and a {thing}."],
        ),
        f"A short story with {name} and a {adjective} {thing}.",
        " ".join(sentences),
    )


def as_json(source: Source) -> Conversation:
    names = list(dict.fromkeys(source.choice([words.pseudo_word(source), *words.NOUNS]) for _ in range(3)))
    makes: list[Callable[[Source], str]] = [words.person, words.place, words.word, words.integer, words.date]
    pairs: dict[str, str | int] = {}
    for name in names[: source.between(1, 3)]:
        value = source.choice(makes)(source)
        pairs[name] = int(value) if value.isdigit() else value
    said = source.choice([", ", "; ", " and "]).join(f"{name} {value}" for name, value in pairs.items())
    question = source.wording(
        [f"As JSON: {said}", f"Give me JSON of {said}", f"Write this as JSON: {said}"], [f"Turn this into JSON: {said}"]
    )
    return answered("json", question, f"The keys are {', '.join(pairs)}.", json.dumps(pairs))


def recall(source: Source) -> Conversation:
    """A list and a question about one of its entries."""
    pairs = {words.word(source): source.choice(MAKES)(source) for _ in range(source.between(2, 8))}
    wanted = source.choice(list(pairs))
    lines = "\n".join(f"{name}: {value}" for name, value in pairs.items())
    question = source.wording(
        [f"{lines}\nWhat is {wanted}?", f"{lines}\n\nTell me the {wanted}."], [f"{lines}\nWhich {wanted} is it?"]
    )
    return answered("copy", question, f"It says {wanted}: {pairs[wanted]}.", pairs[wanted])


def repeat(source: Source) -> Conversation:
    """The same words again."""
    text = " ".join(source.choice(MAKES)(source) for _ in range(source.between(1, 8)))
    question = source.wording(["Repeat: {}", "Say {}", "Copy {}", "Again: {}"], ["Echo this: {}"])
    return answered("copy", question.format(text), f"Again: {text}", text)


MAKES: tuple[Callable[[Source], str], ...] = (
    *(words.word, words.phrase, words.person, words.place, words.identifier, words.date, words.clock, words.mail),
    *(words.path, words.integer, words.decimal),
)


def small_talk(source: Source, with_tools: bool) -> list[Message]:
    """A question that needs no tool, and its answer, which says so where there are some."""
    make = source.choice((greeting, greeting, capital, capital, explanation, country_of, fact, function))
    question, answer = make(source).messages
    if not with_tools:
        return [question, answer]
    reasoning = f"No tool is needed. {capitalised(answer.reasoning or '')}"
    return [question, Message("assistant", answer.content, reasoning=reasoning)]
