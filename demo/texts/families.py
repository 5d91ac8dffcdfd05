"""Tools as one meets them, and what people say to them: each family draws its names and its wording anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stride.types import Tool
from texts import words
from texts.conversation import Source, capitalised, split_of
from texts.tools import Offer, Parameter, Value, Wish, spelled

STYLES = ("snake",) * 6 + ("camel", "kebab", "dotted", "pascal")

PLAIN = 0.25
"""How often a plain name is taken of four tries: a third of them has a made up part, as most of the tests' have."""
OF_PLACES = (
    ("forecast", ("forecast", "forecast for tomorrow")),
    ("temperature", ("temperature", "outside temperature")),
    ("traffic", ("traffic", "traffic situation")),
    ("air quality", ("air quality",)),
    ("local time", ("local time", "time")),
    ("humidity", ("humidity",)),
    ("population", ("population",)),
    ("sunset", ("sunset time", "time of sunset")),
    ("pollen", ("pollen level", "pollen count")),
    ("tides", ("tide table",)),
    ("snow depth", ("snow depth",)),
    ("wind", ("wind", "wind speed")),
    ("rent", ("average rent",)),
    ("altitude", ("altitude",)),
    ("events", ("list of events",)),
    ("news", ("latest news", "news")),
    ("time zone", ("time zone",)),
    ("parking", ("parking situation",)),
    ("climate", ("climate",)),
    ("rainfall", ("rainfall", "amount of rain")),
)
"""What one asks of a place, and how. Weather itself is left to the tests."""


def named(source: Source, *options: tuple[str, ...]) -> str:
    """A name of this side of the split; a made up word joins in where the plain ones are all of the other side."""
    for _ in range(4):
        name = spelled(source, list(source.choice(options)), source.choice(STYLES))
        if split_of(name) == source.split and source.chance(PLAIN):
            return name
    return source.own(lambda: f"{name}_{words.pseudo_word(source, 1)}")


def key(source: Source, *options: str) -> str:
    for _ in range(4):
        name = source.choice(options)
        if split_of(name) == source.split and source.chance(PLAIN):
            return name
    return source.own(lambda: f"{name}_{words.pseudo_word(source, 1)}")


def text_parameter(source: Source, name: str, *descriptions: str) -> Parameter:
    schema: dict[str, Any] = {"type": "string"}
    if source.chance(0.8):
        schema["description"] = source.choice(descriptions)
    return Parameter(name, schema, lambda: ("", ""), str)


class Family:
    """A tool of its kind, and any number of wishes for it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.offer = self.make()

    def make(self) -> Offer:
        raise NotImplementedError

    def wish(self) -> Wish:
        raise NotImplementedError

    def tool(self) -> Tool:
        return self.offer.tool()

    def wished(self, text: str, gist: str, *values: Value) -> Wish:
        arguments = dict(zip([one.name for one in self.offer.parameters], values, strict=False))
        return Wish(self.offer, text, arguments, gist)


class OfPlace(Family):
    def make(self) -> Offer:
        s = self.source
        self.topic, self.says = s.choice(OF_PLACES)
        parts = self.topic.split()
        name = named(s, ("get", *parts), ("fetch", *parts), ("lookup", *parts), (*parts, "in"), ("read", *parts))
        place = key(s, "city", "place", "location", "town", "area", "region", "destination", "where", "site", "spot")
        describes = ("City, and state or country.", "Name of the city", "The city", "Name of the place", "Where")
        description = s.choice(
            [
                f"Get the current {self.topic} in a place.",
                f"Get the {self.topic} of a city",
                f"Tells the {self.topic} in a place",
                f"Current {self.topic} by city.",
                f"Look up the {self.topic} of a place.",
            ]
        )
        return Offer(name, description, (text_parameter(s, place, *describes),), (), self.topic)

    def wish(self) -> Wish:
        s, place = self.source, words.place(self.source)
        what = s.choice(self.says)
        text = s.choice(
            [
                f"what's the {what} in {place}",
                f"what is the {what} in {place}",
                f"tell me the {what} in {place}",
                f"how is the {what} in {place}",
                f"check the {what} in {place}",
                f"I want to know the {what} in {place}",
                f"get the {what} for {place}",
                f"show me the {what} of {place}",
            ]
        )
        return self.wished(text, f"the {what} in {place}", place)


class Calculator(Family):
    def make(self) -> Offer:
        s = self.source
        name = named(
            *(s, ("calc",), ("compute",), ("evaluate",), ("solve",), ("math", "eval"), ("do", "math"), ("calculator",)),
            *(("arithmetic",), ("eval", "expression"), ("compute", "value"), ("solve", "expression"), ("math",)),
        )
        parameter = key(s, "expr", "formula", "input", "term", "calculation", "math", "problem", "operation", "sum")
        describes = ("For example 2 * (3 + 4).", "The expression", "Such as 3 + 4 * 5", "What to evaluate")
        description = s.choice(
            [
                "Evaluate an arithmetic expression.",
                "Calculate the value of an expression",
                "Does arithmetic.",
                "Compute a number from a formula.",
                "A calculator.",
            ]
        )
        return Offer(name, description, (text_parameter(s, parameter, *describes),), (), "arithmetic")

    def wish(self) -> Wish:
        s = self.source
        a, b = self.number(), self.number()
        verb = s.choice(["calculate ", "compute ", "work out ", "what is ", "what's "])
        percent = s.own(lambda: str(s.choice([s.between(1, 60), 5 * s.between(1, 12)])))
        money = s.choice(["$", "$", "$", "€", ""])
        options = [
            (f"{verb}{s.choice(['', 'a ', 'the '])}{percent}% tip on {money}{a}", f"{a} * {percent} / 100"),
            (f"{verb}{percent}% of {money}{a}", f"{a} * {percent} / 100"),
            (f"{verb}{s.choice(['', 'a '])}{percent}% discount on {money}{a}", f"{a} * {percent} / 100"),
            (f"{verb}{s.choice(['', 'the '])}{percent}% tax on {money}{a}", f"{a} * {percent} / 100"),
            (f"{verb}{a} plus {b}", f"{a} + {b}"),
            (f"{verb}{a} + {b}", f"{a} + {b}"),
            (f"{verb}{a} minus {b}", f"{a} - {b}"),
            (f"{verb}{a} times {b}", f"{a} * {b}"),
            (f"{verb}{a} * {b}", f"{a} * {b}"),
            (f"{verb}{a} divided by {b}", f"{a} / {b}"),
            (f"add {a} and {b}", f"{a} + {b}"),
            (f"multiply {a} by {b}", f"{a} * {b}"),
            (f"divide {a} by {b}", f"{a} / {b}"),
            (f"split {money}{a} among {s.between(2, 9)} people", None),
            (f"{verb}({a} + {b}) * {s.between(2, 9)}", None),
        ]
        text, expression = s.choice([*options[:4], *options])
        if expression is None:
            is_split = text.startswith("split")
            expression = f"{a} / {text.split(' ')[-2]}" if is_split else text.removeprefix(verb)
        return self.wished(text, text.removeprefix("what is ").removeprefix("what's "), expression)

    def number(self) -> str:
        return words.integer(self.source) if self.source.chance(0.5) else words.decimal(self.source)


def evaluated(arguments: dict[str, Value]) -> float:
    """The value of a calculator's expression, which this module wrote itself."""
    (expression,) = arguments.values()
    return float(eval(str(expression), {"__builtins__": {}}))


class Simple(Family):
    """One or two values of the user's own words."""

    FORMS: tuple[tuple[Any, ...], ...] = (
        # names, description, parameters (names, description, values), wording
        (
            (("web", "search"), ("search", "web"), ("find", "pages"), ("lookup",), ("browse",), ("google",)),
            ("Search the web", "Find pages on the internet."),
            ((("query", "q", "terms", "words", "keywords", "text"), "What to look for", words.phrase),),
            ("search for {0}", "look up {0}", "search the web for {0}", "find pages about {0}"),
        ),
        (
            (("send", "mail"), ("send", "email"), ("mail", "to"), ("email", "send"), ("post", "mail")),
            ("Send an email.", "Sends a mail to someone"),
            (
                (("to", "recipient", "address", "receiver"), "Who gets it", words.mail),
                (("subject", "title", "topic", "about"), "What it is about", words.phrase),
            ),
            ("send a mail to {0} about {1}", "email {0} about {1}", "write a mail to {0} with the subject {1}"),
        ),
        (
            (("add", "reminder"), ("remind",), ("set", "reminder"), ("create", "reminder"), ("remind", "me")),
            ("Set a reminder.", "Reminds the user of something at a time"),
            (
                (("text", "what", "note", "message", "task"), "What to remind of", words.phrase),
                (("time", "when", "at", "hour"), "HH:MM", words.clock),
            ),
            ("remind me of the {0} at {1}", "set a reminder for {0} at {1}", "add a reminder about {0} at {1}"),
        ),
        (
            (("translate",), ("translate", "text"), ("translator",), ("to", "language"), ("translation",)),
            ("Translate a text.", "Translates words to another language"),
            (
                (("text", "words", "phrase", "source"), "What to translate", words.phrase),
                (("language", "target", "to", "lang"), "The language", None),
            ),
            ("translate {0} to {1}", 'translate "{0}" into {1}', "how do you say {0} in {1}"),
        ),
        (
            (("stock", "price"), ("get", "quote"), ("quote",), ("share", "price"), ("get", "stock")),
            ("Get the price of a stock.", "The current price of a share"),
            ((("symbol", "ticker", "stock", "share"), "Such as ABCD", "ticker"),),
            (
                "what's the price of {0} stock",
                "how much is {0} worth",
                "get the stock price of {0}",
                "check {0} shares",
            ),
        ),
        (
            (("book", "table"), ("reserve", "table"), ("table", "booking"), ("make", "reservation")),
            ("Book a table in a restaurant.", "Reserves a table"),
            (
                (("place", "city", "where", "restaurant"), "Where", words.place),
                (("time", "at", "hour", "when"), "HH:MM", words.clock),
            ),
            ("book a table in {0} at {1}", "reserve a table in {0} for {1}", "I'd like a table in {0} at {1}"),
        ),
        (
            (("find", "flights"), ("search", "flights"), ("flight", "search"), ("get", "flights"), ("flights",)),
            ("Find flights between two cities.", "Searches for flights"),
            (
                (("origin", "from", "start", "departure"), "Where it starts", words.place),
                (("destination", "to", "goal", "arrival"), "Where it goes", words.place),
            ),
            ("find flights from {0} to {1}", "how do I fly from {0} to {1}", "search a flight from {0} to {1}"),
        ),
        (
            (("read", "file"), ("open", "file"), ("cat",), ("get", "file"), ("show", "file")),
            ("Read a file.", "Gives the text of a file"),
            ((("path", "file", "filename", "name"), "Path of the file", words.path),),
            ("read {0}", "show me {0}", "open the file {0}", "what is in {0}"),
        ),
        (
            (("play", "song"), ("play", "music"), ("music",), ("start", "song"), ("play",)),
            ("Play music.", "Plays a song by its title"),
            ((("title", "song", "track", "name"), "Title of the song", words.phrase),),
            ("play {0}", "play the song {0}", "I want to hear {0}", "start the song {0}"),
        ),
        (
            (("find", "contact"), ("get", "contact"), ("lookup", "person"), ("phone", "book"), ("get", "phone")),
            ("Find a person's contact.", "Gives the phone number of a person"),
            ((("name", "person", "who", "contact"), "Whose", words.person),),
            ("what is the number of {0}", "find the contact of {0}", "how can I reach {0}", "get the phone of {0}"),
        ),
        (
            (("track", "parcel"), ("track", "order"), ("order", "status"), ("where", "is"), ("parcel", "status")),
            ("Tells where a parcel is.", "Track an order by its number"),
            ((("number", "id", "code", "order"), "The number", words.identifier),),
            ("where is my parcel {0}", "track {0}", "what is the state of order {0}", "has {0} arrived"),
        ),
        (
            (("set", "timer"), ("timer",), ("start", "timer"), ("countdown",), ("new", "timer")),
            ("Start a timer.", "Counts down some minutes"),
            ((("minutes", "duration", "length", "time"), "In minutes", "integer"),),
            ("set a timer for {0} minutes", "start a timer of {0} minutes", "wake me in {0} minutes"),
        ),
        (
            (("convert", "currency"), ("exchange",), ("currency", "convert"), ("convert", "money"), ("fx",)),
            ("Convert money between currencies.", "Exchange rates"),
            (
                (("amount", "value", "sum", "money"), "How much", "integer"),
                (("from", "source", "have", "base"), "Currency", "currency"),
                (("to", "target", "want", "into"), "Currency", "currency"),
            ),
            ("convert {0} {1} to {2}", "how much is {0} {1} in {2}", "exchange {0} {1} for {2}"),
        ),
    )

    def make(self) -> Offer:
        s = self.source
        names, descriptions, parameters, self.texts = s.choice(self.FORMS)
        self.makes: list[Any] = []
        made: list[Parameter] = []
        for options, description, make in parameters:
            parameter = text_parameter(s, key(s, *options), description)
            if make == "integer":
                parameter.schema["type"] = "integer"
            made.append(parameter)
            self.makes.append(make)
        return Offer(named(s, *names), s.choice(descriptions), tuple(made), (), " ".join(names[0]))

    def wish(self) -> Wish:
        s = self.source
        values: list[Value] = []
        for make in self.makes:
            if make is None:
                values.append(s.choice(LANGUAGES[s.split]))
            elif make == "integer":
                values.append(int(words.integer(s)))
            elif make == "currency":
                values.append(s.choice([c for c in CURRENCIES[s.split] if c not in values]))
            elif make == "ticker":
                values.append(words.ticker(s))
            else:
                values.append(make(s))
        text = s.choice(self.texts).format(*values)
        return self.wished(text, text.removeprefix("what is the ").removeprefix("what's the "), *values)


LANGUAGES = {
    "train": words.listed(
        "French German Spanish Italian Dutch Polish Greek Turkish Arabic Hindi Korean Swedish Danish"
    ),
    "test": words.listed("Finnish Czech Thai Welsh Irish Basque"),
}
CURRENCIES = {
    "train": words.listed("USD EUR GBP JPY CHF SEK NOK DKK PLN CAD AUD NZD INR CNY KRW BRL MXN ZAR TRY HUF CZK"),
    "test": words.listed("SGD HKD THB ILS CLP COP RON ISK"),
}
FAMILIES: tuple[Callable[[Source], Family], ...] = (OfPlace, OfPlace, Calculator, Calculator, *[Simple] * 6)


def drawn(source: Source) -> Family:
    return source.choice(FAMILIES)(source)


def sentence(source: Source, text: str) -> str:
    """A wish as a user types it."""
    end = source.choice(["?", "?", "", "."]) if text.split()[0] in QUESTIONS else source.choice([".", "", "", "!"])
    polite = source.choice(["", "", "", "", "Please ", "Hi, ", "Hey, "])
    if text.startswith(("please", "can", "I ")):
        polite = ""
    text = polite + text
    return (capitalised(text) if source.chance(0.85) else text) + end


QUESTIONS = ("what", "what's", "how", "where", "can", "has")
