"""Words: real ones from lists, and made up ones, so that copying is learnt and not a list of names."""

from __future__ import annotations

from texts.conversation import Source


def listed(text: str, separator: str | None = None) -> tuple[str, ...]:
    """The words, or the names between separators, of a text."""
    return tuple(" ".join(part.split()) for part in text.split(separator))


ONSETS = listed(
    """
    b c d f g h j k l m n p r s t v w z br cl cr dr fl gr kl pl pr sh st th tr sk sp ch qu
    """
)
VOWELS = listed(
    """
    a e i o u ai ea ee oo ou y
    """
)
CODAS = ("", "", "", *listed("n r l s t m k x nd rt sh ck ll ng"))
FIRST_NAMES = listed(
    """
    Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor Wendy
    Yusuf Zoe Amir Bella Carlos Diana Elias Fatima George Hana Ivan Julia Karim Lena Marco Nina Omar Priya Quentin
    Rachel Stefan Tara Ursula Vera William Xenia Yara Adam Chloe Dylan Ella Finn Gina Hugo Iris Jonas Kira Liam Maya
    Nora
    """
)
CITIES = listed(
    """
    Paris, London, Berlin, Madrid, Rome, Vienna, Lisbon, Dublin, Oslo, Helsinki, Athens, Prague, Warsaw, Budapest,
    Zurich, Geneva, Hamburg, Munich, Lyon, Marseille, Porto, Seville, Valencia, Naples, Milan, Turin, Venice,
    Florence, Krakow, Gdansk, Riga, Tallinn, Vilnius, Sofia, Bucharest, Belgrade, Zagreb, Istanbul, Ankara, Cairo,
    Tunis, Lagos, Nairobi, Accra, Dakar, Tokyo, Osaka, Kyoto, Seoul, Busan, Beijing, Shanghai, Bangkok, Hanoi,
    Manila, Jakarta, Delhi, Mumbai, Chennai, Karachi, Tehran, Dubai, Sydney, Melbourne, Perth, Auckland, Toronto,
    Montreal, Vancouver, Boston, Chicago, Denver, Seattle, Portland, Dallas, Houston, Miami, Atlanta, Phoenix,
    Detroit, Memphis, Nashville, New York, San Diego, Los Angeles, Las Vegas, Lima, Bogota, Quito, Santiago, Buenos
    Aires, Sao Paulo, Montevideo, Havana, Kingston, Reykjavik, Bergen, Malmo, Aarhus, Ghent, Bruges, Utrecht,
    Rotterdam
    """,
    ",",
)
ADJECTIVES = listed(
    """
    red blue green old new small large quiet bright dark cheap fast slow warm cold modern classic simple local daily
    weekly central northern southern public private golden silver wooden digital early late fresh sweet open hidden
    """
)
THINGS = listed(
    """
    river engine window garden paper market winter signal letter bridge island teacher music morning number harbor
    forest kitchen station summer story lamp camera bicycle jacket guitar table chair mirror carpet kettle basket
    lantern compass blanket candle ladder hammer saddle bottle pencil ticket tunnel castle village valley meadow
    """
)
VERBS = listed(
    """
    create delete update find list send open close start stop check book cancel track measure compare convert
    translate upload download schedule assign archive export import merge publish approve reject rename resize
    rotate scan sort count fetch search reserve order pay refund invite notify print record play pause lock unlock
    register verify query estimate rank tag move copy restore rate plan review submit sync reset enable disable
    block mute pin share
    """
)
NOUNS = listed(
    """
    invoice order customer account flight hotel table ticket room meeting message email report file folder image
    video song playlist recipe product payment shipment parcel task project contract employee student course lesson
    exam book author movie actor team match player score sensor device server container cluster database backup log
    alarm light door camera printer vehicle route train bus taxi parking battery charger plant animal patient doctor
    appointment prescription budget expense loan stock currency price tax auction coupon review comment post channel
    group event calendar reminder note contact address map district river forest crop field machine robot drone
    pipeline branch commit issue release package license domain certificate password token session survey poll vote
    """
)
QUALIFIERS = listed(
    """
    start end first last max min total target source home work old new main current next previous default base final
    local parent owner customer order user item unit
    """
)
EXTENSIONS = listed("txt csv json png pdf md py log")


def pseudo_word(source: Source, syllables: int | None = None) -> str:
    """A word that no one has seen: syllables at random."""
    n = syllables or source.choice([1, 2, 2, 2, 3])
    parts = [source.choice(ONSETS) + source.choice(VOWELS) + source.choice(CODAS) for _ in range(n)]
    return "".join(parts)


def word(source: Source) -> str:
    """A plain lower-case word, real or not."""
    kind = source.rng.random()
    return source.choice(THINGS) if kind < 0.25 else source.choice(NOUNS) if kind < 0.4 else pseudo_word(source)


def label(source: Source) -> str:
    """One word that is a value."""
    return source.own(lambda: word(source) if source.split == "train" else pseudo_word(source, 2))


def place(source: Source) -> str:
    if source.chance(0.5):
        return source.own(lambda: source.choice(CITIES))
    return source.own(lambda: pseudo_word(source).capitalize())


def person(source: Source) -> str:
    first = source.choice(FIRST_NAMES) if source.chance(0.6) else pseudo_word(source).capitalize()
    return source.own(lambda: first if source.chance(0.4) else f"{first} {pseudo_word(source, 2).capitalize()}")


def phrase(source: Source) -> str:
    """A few words: what one looks for, a title, a subject."""
    forms = (
        lambda: f"{source.choice(ADJECTIVES)} {word(source)}",
        lambda: f"{source.choice(ADJECTIVES)} {word(source)} {word(source)}",
        lambda: f"{word(source)} {word(source)}",
        lambda: word(source),
    )
    return source.own(source.choice(forms))


def identifier(source: Source) -> str:
    letters, small = "ABCDEFGHJKLMNPQRSTUVWXYZ", "abcdefghjklmnpqrstuvwxyz"
    forms = (
        lambda: f"{source.choice(letters)}{source.choice(letters)}-{source.between(100, 99999)}",
        lambda: f"{source.choice(letters)}{source.between(10, 9999)}",
        lambda: f"{pseudo_word(source, 1)}-{source.between(1, 999)}",
        lambda: f"{pseudo_word(source)}_{pseudo_word(source, 1)}",
        lambda: f"{source.choice(small)}{source.between(1, 9)}{source.choice(small)}{source.between(10, 99)}",
    )
    return source.own(source.choice(forms))


def date(source: Source) -> str:
    return source.own(lambda: f"20{source.between(20, 39)}-{source.between(1, 12):02d}-{source.between(1, 28):02d}")


def clock(source: Source) -> str:
    return source.own(lambda: f"{source.between(0, 23):02d}:{source.choice(['00', '15', '30', '45', '10', '20'])}")


def mail(source: Source) -> str:
    domain = source.choice(["example.com", "mail.org", f"{pseudo_word(source)}.com", f"{pseudo_word(source)}.net"])
    return source.own(lambda: f"{source.choice([*FIRST_NAMES, pseudo_word(source)]).lower()}@{domain}")


def ticker(source: Source) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return source.own(lambda: "".join(source.choice(letters) for _ in range(source.between(3, 4))))


def path(source: Source) -> str:
    extension = source.choice(EXTENSIONS)
    return source.own(lambda: f"{word(source)}/{word(source)}.{extension}")


def integer(source: Source) -> str:
    high = source.choice([9, 20, 99, 99, 999, 9999, 99999])
    return source.own(lambda: str(source.between(1, high)))


def decimal(source: Source) -> str:
    high = source.choice([9, 99, 99, 999])
    return source.own(lambda: f"{source.between(0, high)}.{source.between(1, 99):02d}".removesuffix("0"))
