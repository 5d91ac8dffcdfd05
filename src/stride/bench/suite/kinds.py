"""The fourteen kinds, each one declaration: a prompt and tools drawn from a seed, and what every turn has to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stride.bench.graders.arguments import default, each, place, record, same, text, value_of
from stride.bench.suite import toolbox
from stride.bench.suite.case import Case, Step
from stride.bench.suite.judges import (
    ASKS,
    answers,
    anything,
    calls,
    repeats,
    retries_or_tells,
    says,
    says_number,
)
from stride.bench.suite.toolbox import Tool, a, an_object
from stride.bench.suite.vocabulary import CITIES, LABELS, PEOPLE, ROOMS, STREETS, Draw

SEEDS = range(5)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a kind draws."""

    prompt: str
    tools: Sequence[Tool]
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Kind:
    """``title`` says in the report what is tested."""

    name: str
    title: str
    make: Callable[[Draw], Scenario]

    def case(self, seed: int) -> Case:
        made = self.make(Draw(self.name, seed))
        return Case(self.name, seed, made.prompt, tuple(tool.definition for tool in made.tools), tuple(made.steps))


def _single(draw: Draw) -> Scenario:
    label, minutes = draw.each(LABELS), draw.number(3, 58)
    unit, length = draw.each((("minutes", minutes), ("seconds", 60 * minutes)))
    timer = toolbox.timer(draw, unit)
    wanted = timer.wanted(same(length), text(label))
    return Scenario(f'Start a timer for {minutes} minutes, labelled "{label}".', [timer], [Step(calls(wanted))])


def _default(draw: Draw) -> Scenario:
    city, nights, guests = draw.each(CITIES), draw.number(2, 9), draw.number(2, 4)
    hotels = Tool(
        draw.any(("find_hotels", "search_hotels")),
        "Find free hotel rooms.",
        {
            "city": a("string", "Where."),
            "nights": a("integer", "For how many nights."),
            "guests": a("integer", f"How many guests, {guests} if nothing is said.", default=guests),
            "sort_by": a("string", "The order of the list.", enum=["price", "rating", "distance"], default="rating"),
        },
        optional=("guests", "sort_by"),
    )
    wanted = hotels.wanted(place(city), same(nights), default(same(guests)), default(same("rating")))
    return Scenario(f"Find me a hotel in {city} for {nights} nights.", [hotels], [Step(calls(wanted))])


def _enum(draw: Draw) -> Scenario:
    room, degrees = draw.each(ROOMS), draw.number(32, 48) / 2
    mode, prompt = draw.each(
        (
            ("heat", "It is cold. Warm the {room} up to {degrees} degrees."),
            ("cool", "It is too hot. Bring the {room} down to {degrees} degrees."),
            ("eco", "Put the {room} into economy mode at {degrees} degrees."),
        )
    )
    spell = draw.each((str.lower, str.upper))
    rooms = [spell(name.replace(" ", "_")) for name in ROOMS]
    modes = draw.some([spell(name) for name in ("heat", "cool", "eco", "fan_only")], 4)
    thermostat = toolbox.thermostat(rooms, modes)
    wanted = thermostat.wanted(same(spell(room.replace(" ", "_"))), same(spell(mode)), same(degrees))
    return Scenario(prompt.format(room=room, degrees=f"{degrees:g}"), [thermostat], [Step(calls(wanted))])


def _choice(draw: Draw) -> Scenario:
    city = draw.each(CITIES)
    offers = (
        (toolbox.weather(draw), "Is it raining in {city} right now?"),
        (toolbox.local_time(draw), "What time is it in {city} now?"),
        (
            toolbox.at_place(draw, "get_air_quality", "Get the air quality index of a place."),
            "How clean is {city}'s air?",
        ),
        (
            toolbox.at_place(draw, "get_sun", "Get today's sunrise and sunset in a place."),
            "When will it get dark in {city}?",
        ),
    )
    tool, prompt = draw.each(offers)
    tools = draw.some([offer for offer, _ in offers], len(offers))
    return Scenario(prompt.format(city=city), tools, [Step(calls(tool.wanted(place(city))))])


def _three_times(draw: Draw) -> Scenario:
    cities = draw.some(CITIES, 3)
    tool, what = draw.each(((toolbox.weather(draw), "the weather"), (toolbox.local_time(draw), "the local time")))
    wanted = [tool.wanted(place(city, others=[other for other in cities if other != city])) for city in cities]
    prompt = f"What is {what} in {cities[0]}, {cities[1]} and {cities[2]}?"
    return Scenario(prompt, [tool], [Step(calls(*wanted))])


def _weather_and_calculate(draw: Draw) -> Scenario:
    city, percent, cents = draw.each(CITIES), draw.any((5, 8, 12, 15, 18, 20, 22)), draw.number(1_005, 19_995)
    weather, calculator = toolbox.weather(draw), toolbox.calculator(draw)
    tip = percent * cents / 10_000
    wanted = weather.wanted(place(city)), calculator.wanted(value_of(tip, cents / 100 + tip))
    prompt = f"What's the weather in {city} and calculate {percent}% tip on ${cents / 100:.2f}"
    return Scenario(prompt, [weather, calculator], [Step(calls(*wanted))])


def _dependent(draw: Draw) -> Scenario:
    who, code = draw.each(PEOPLE), draw.code("ID")
    person, key, action, description, prompt = draw.each(
        (
            ("customer", "customer_id", "list_orders", "List a customer's orders.", "Which orders has {who} placed?"),
            ("employee", "employee_id", "get_leave", "Days of leave left.", "How many days of leave has {who} left?"),
            ("patient", "patient_id", "list_visits", "List a patient's visits.", "When were the visits of {who}?"),
        )
    )
    find = Tool(f"find_{person}", f"Find a {person}'s id.", {"full_name": a("string", "First and last name.")})
    act = Tool(action, description, {key: a("string", f"The {person}'s id, as find_{person} gives it.")})
    steps = [
        Step(calls(find.wanted(text(who)))),
        Step(calls(act.wanted(same(code))), results={find.name: {key: code}}),
    ]
    return Scenario(prompt.format(who=f"our {person} {who}"), [find, act], steps)


REQUESTS = (
    "Order a large mushroom pizza to my home.",
    "Print the last page of my thesis.",
    "Unlock the front door of my car.",
    "Book two cinema tickets for tonight.",
    "Call my sister and put her on the speaker.",
    "Water the plants on the balcony.",
)


def _irrelevant(draw: Draw) -> Scenario:
    tools = [toolbox.weather(draw), toolbox.timer(draw, "minutes"), toolbox.calculator(draw), toolbox.local_time(draw)]
    return Scenario(draw.each(REQUESTS), draw.some(tools, 3), [Step(answers())])


def _missing_argument(draw: Draw) -> Scenario:
    who, city, amount = draw.any(PEOPLE), draw.any(CITIES), draw.number(20, 900)
    flight = {"origin": a("string", "City."), "destination": a("string", "City."), "date": a("string", "YYYY-MM-DD.")}
    table = {"restaurant": a("string", "Its name."), "guests": a("integer", "How many."), "time": a("string", "HH:MM.")}
    tool, prompt = draw.each(
        (
            (Tool("book_flight", "Book a flight.", flight), f"Book me a flight to {city}."),
            (Tool("reserve_table", "Reserve a table.", table), f"Reserve a table for {amount % 7 + 2} people."),
            (
                Tool(
                    "send_money", "Send money.", {"to": a("string", "Account number."), "amount": a("number", "Euros.")}
                ),
                f"Send {amount} euros.",
            ),
            (
                Tool(
                    "send_message", "Send a message.", {"to": a("string", "Name."), "text": a("string", "The words.")}
                ),
                f"Send a message to {who}.",
            ),
            (
                Tool("track_parcel", "Where a parcel is.", {"tracking_number": a("string", "On the receipt.")}),
                f"Where is the parcel that I sent to {city}?",
            ),
        )
    )
    return Scenario(prompt, [tool], [Step(answers(ASKS))])


FACTS = (
    ("What is the capital of Japan?", ("Tokyo",)),
    ("How many legs does a spider have?", ("8", "eight")),
    ("Who wrote the play Hamlet?", ("Shakespeare",)),
    ("What is the chemical symbol of gold?", ("Au",)),
    ("Which planet is called the Red Planet?", ("Mars",)),
    ("How do you say thank you in French?", ("merci",)),
    ("Which ocean is the largest?", ("Pacific",)),
)


def _no_tool(draw: Draw) -> Scenario:
    question, any_of = draw.each(FACTS)
    tools = [toolbox.weather(draw), toolbox.timer(draw, "minutes"), toolbox.music(draw)]
    return Scenario(question, draw.some(tools, 3), [Step(answers(says(*any_of)))])


ERRORS = (
    "upstream timed out after 10 s",
    "service temporarily unavailable",
    "internal server error",
    "connection refused",
    "rate limit exceeded",
)


def _tool_error(draw: Draw) -> Scenario:
    city, weather = draw.each(CITIES), toolbox.weather(draw)
    wanted = weather.wanted(place(city))
    steps = [
        Step(calls(wanted)),
        Step(retries_or_tells(wanted), results={weather.name: {"error": draw.each(ERRORS)}}),
    ]
    return Scenario(f"How warm is it in {city} at the moment?", [weather], steps)


def _uses_results(draw: Draw) -> Scenario:
    article, units = draw.code(draw.each(("BK", "LX", "QT", "RV"))), draw.number(1_001, 9_989)
    stock = Tool(
        draw.any(("get_stock", "stock_level", "count_stock")),
        "How many units of an article are in the warehouse.",
        {draw.any(("article", "sku")): a("string", "The article's code.")},
    )
    steps = [
        Step(calls(stock.wanted(same(article)))),
        Step(answers(says_number(units)), results={stock.name: {"article": article, "units": units}}),
    ]
    return Scenario(f"How many units of article {article} are in stock?", [stock], steps)


def _nested(draw: Draw) -> Scenario:
    who, city, postcode = draw.each(PEOPLE), draw.any(CITIES), str(draw.number(10_000, 99_999))
    street = f"{draw.number(2, 98)} {draw.any(STREETS)}"
    lines = [(draw.code("A"), draw.number(2, 12)) for _ in range(2)]
    address = {
        "street": a("string", "House number and street."),
        "city": a("string", "City."),
        "postcode": a("string", "Postal code."),
    }
    line = {"article": a("string", "The article's code."), "quantity": a("integer", "How many.", minimum=1)}
    order = Tool(
        draw.any(("create_order", "place_order")),
        "Place an order.",
        {
            "customer": an_object({"name": a("string", "Full name."), "address": an_object(address)}),
            "items": {"type": "array", "items": an_object(line), "minItems": 1},
        },
    )
    home = record({"street": text(street), "city": text(city), "postcode": text(postcode)})
    items = each(*(record({"article": same(article), "quantity": same(quantity)}) for article, quantity in lines))
    wanted = order.wanted(record({"name": text(who), "address": home}), items)
    articles = " and ".join(f"{quantity} of article {article}" for article, quantity in lines)
    return Scenario(f"Order {articles} for {who}, {street}, {postcode} {city}.", [order], [Step(calls(wanted))])


def _streamed(draw: Draw) -> Scenario:
    base = draw.each((_weather_and_calculate, _no_tool))(draw)
    return Scenario(base.prompt, base.tools, [Step(anything()), Step(repeats(), stream=False)])


KINDS = (
    Kind("single", "One call", _single),
    Kind("default", "Defaults left out", _default),
    Kind("enum", "One of a list of values", _enum),
    Kind("choice", "The right one of four tools", _choice),
    Kind("three-times", "One tool three times", _three_times),
    Kind("weather-and-calculate", "Two tools at once, as in the post", _weather_and_calculate),
    Kind("dependent", "One call after the other", _dependent),
    Kind("irrelevant", "No tool that fits: no call", _irrelevant),
    Kind("missing-argument", "Something is missing: it asks", _missing_argument),
    Kind("no-tool", "No tool needed", _no_tool),
    Kind("tool-error", "A tool fails: it retries or tells", _tool_error),
    Kind("uses-results", "The answer uses the tool's result", _uses_results),
    Kind("nested", "Nested objects", _nested),
    Kind("streamed", "Streamed equals not streamed", _streamed),
)


def cases(seeds: Sequence[int] = SEEDS) -> Iterator[Case]:
    """Every kind with every seed; a run that is cut short has had all kinds for the first seeds."""
    return (kind.case(seed) for seed in seeds for kind in KINDS)
