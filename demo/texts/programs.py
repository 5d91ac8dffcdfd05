"""Small FastAPI programs with SQLAlchemy: create, read, list, change and remove things of some kind.

The kind of thing in the post's coding test is left to the tests.
"""

from __future__ import annotations

from texts import words
from texts.conversation import Conversation, Source, answered, listed, split_of

HELD_OUT = ("todo", "task", "to-do")
"""What the post asks for; nothing of this name is in the training text's programs."""
HELD_OUT_PROMPT = (
    "Write a Python FastAPI server with CRUD endpoints for a {} app with SQLite storage. "
    "Include models, database setup, and all endpoints."
)
"""The post's wording, with any other thing: not in the training text either."""

ENTITIES = {
    "book": "title:str author:str pages:int read:bool=False",
    "pet": "name:str species:str age:int",
    "invoice": "number:str amount:float paid:bool=False",
    "note": "title:str content:str",
    "recipe": "title:str ingredients:str minutes:int",
    "movie": "title:str director:str year:int seen:bool=False",
    "song": "title:str artist:str seconds:int",
    "customer": "name:str email:str active:bool=True",
    "product": "name:str price:float stock:int",
    "order": "customer:str total:float shipped:bool=False",
    "car": "brand:str model:str year:int",
    "employee": "name:str role:str salary:float",
    "student": "name:str grade:int",
    "course": "title:str teacher:str credits:int",
    "event": "title:str place:str date:str",
    "contact": "name:str phone:str email:str?",
    "plant": "name:str location:str watered:bool=False",
    "expense": "title:str amount:float category:str",
    "bookmark": "title:str url:str",
    "room": "name:str seats:int free:bool=True",
    "ticket": "title:str priority:int closed:bool=False",
    "player": "name:str team:str score:int",
    "city": "name:str country:str population:int",
    "workout": "name:str minutes:int done:bool=False",
    "habit": "name:str days:int done:bool=False",
    "goal": "title:str description:str? reached:bool=False",
    "item": "name:str description:str? done:bool=False",
    "reminder": "title:str time:str done:bool=False",
    "project": "name:str description:str? finished:bool=False",
    "chore": "title:str description:str? done:bool=False",
    "errand": "title:str place:str? done:bool=False",
    "shopping": "title:str count:int bought:bool=False",
}
"""Kinds of things and the fields that a model would think of; ``?`` may be null."""
GENERAL = "title:str description:str? done:bool=False"
"""Of a thing that nothing else is known of."""
FIELDS = (
    *("name:str", "title:str", "color:str", "size:int", "price:float", "weight:float", "email:str", "city:str"),
    *("count:int", "year:int", "rating:float", "url:str", "active:bool=True", "done:bool=False", "notes:str?"),
)


def plural(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def program(source: Source) -> Conversation:
    kind = source.rng.random()
    is_listed = False
    if kind < 0.45 and source.split == "train":
        thing = source.choice(list(ENTITIES))
        fields = ENTITIES[thing]
    else:
        thing = source.choice(words.NOUNS) if kind < 0.6 else words.pseudo_word(source)
        if thing in ENTITIES or thing in HELD_OUT or split_of(thing) != source.split:
            return program(source)
        is_listed = source.chance(0.4)
        fields = " ".join(source.sample(FIELDS, source.between(2, 4))) if is_listed else GENERAL
        if not any(field.endswith((":str", ":int", ":float")) for field in fields.split()):
            return program(source)
    parsed = [Field(text) for text in fields.split()]
    question = asked(source, thing)
    if is_listed:
        question += f" A {thing} has {listed([field.name for field in parsed])}."
    names = ", ".join(field.name for field in parsed)
    return answered(
        "programs",
        question,
        f"A FastAPI app for {plural(thing)}: SQLAlchemy models with {names}, schemas, a database and five endpoints.",
        written(thing, parsed),
    )


def asked(source: Source, thing: str) -> str:
    """A request in one of many wordings, never the post's."""
    things = plural(thing)
    what = source.choice(
        [
            f"a Python FastAPI server with CRUD endpoints for a {thing} app",
            f"a FastAPI server with CRUD endpoints for a {thing} app",
            f"a Python FastAPI server for a {thing} app",
            f"a FastAPI app that manages {things}",
            f"a small FastAPI service with CRUD endpoints for {things}",
            f"a REST API for {things} in Python with FastAPI",
            f"a FastAPI program to create, read, update and delete {things}",
        ]
    )
    storage = source.choice(
        [" with SQLite storage", " with SQLite storage", " and SQLite", " that stores in SQLite", ""]
    )
    rest = source.choice(
        [
            " Include models, database setup, and all endpoints.",
            " Include models and all endpoints.",
            " Include models, database setup and endpoints.",
            " Include the database setup.",
            " Use SQLAlchemy.",
            " Use SQLAlchemy and Pydantic.",
            "",
            "",
        ]
    )
    text = f"{source.choice(['Write', 'Write', 'Write', 'Create', 'Build', 'Please write'])} {what}{storage}.{rest}"
    return asked(source, thing) if text == HELD_OUT_PROMPT.format(thing) else text


class Field:
    """One column: ``name:type``, then ``=default`` or ``?`` for what may be null."""

    def __init__(self, text: str) -> None:
        self.name, _, kind = text.partition(":")
        kind, _, self.default = kind.partition("=")
        if kind.endswith("?"):
            kind, self.default = kind[:-1] + " | None", "None"
        self.type = kind

    @property
    def column(self) -> str:
        default = f" = mapped_column(default={self.default})" if self.default else ""
        return f"    {self.name}: Mapped[{self.type}]{default}"

    @property
    def attribute(self) -> str:
        return f"    {self.name}: {self.type}" + (f" = {self.default}" if self.default else "")


PROGRAM = '''Here is a FastAPI app for {things}, in four files.

```python
# database.py
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, sessionmaker

engine = create_engine("sqlite:///./{things}.db", connect_args={"check_same_thread": False})
SessionLocal = sessionmaker(bind=engine)


class Base(DeclarativeBase):
    pass


def get_db():
    with SessionLocal() as db:
        yield db


# models.py
from sqlalchemy.orm import Mapped, mapped_column

from database import Base


class {Thing}(Base):
    __tablename__ = "{things}"
    id: Mapped[int] = mapped_column(primary_key=True)
{columns}


# schemas.py
from pydantic import BaseModel, ConfigDict


class {Thing}In(BaseModel):
{attributes}


class {Thing}Out({Thing}In):
    model_config = ConfigDict(from_attributes=True)
    id: int


# main.py
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.orm import Session

from database import Base, engine, get_db
from models import {Thing}
from schemas import {Thing}In, {Thing}Out

Base.metadata.create_all(engine)
app = FastAPI()


@app.post("/{things}", response_model={Thing}Out, status_code=201)
def create_{thing}(data: {Thing}In, db: Session = Depends(get_db)):
    """Create a {thing}."""
    row = {Thing}(**data.model_dump())
    db.add(row)
    db.commit()
    return row


@app.get("/{things}", response_model=list[{Thing}Out])
def list_{things}(skip: int = 0, limit: int = 100, db: Session = Depends(get_db)):
    """List all {things}."""
    return db.query({Thing}).offset(skip).limit(limit).all()


@app.get("/{things}/{{thing}_id}", response_model={Thing}Out)
def get_{thing}({thing}_id: int, db: Session = Depends(get_db)):
    """Get one {thing}."""
    row = db.get({Thing}, {thing}_id)
    if row is None:
        raise HTTPException(status_code=404, detail="{Thing} not found")
    return row


@app.put("/{things}/{{thing}_id}", response_model={Thing}Out)
def update_{thing}({thing}_id: int, data: {Thing}In, db: Session = Depends(get_db)):
    """Update a {thing}."""
    row = get_{thing}({thing}_id, db)
    for key, value in data.model_dump().items():
        setattr(row, key, value)
    db.commit()
    return row


@app.delete("/{things}/{{thing}_id}", status_code=204)
def delete_{thing}({thing}_id: int, db: Session = Depends(get_db)):
    """Delete a {thing}."""
    db.delete(get_{thing}({thing}_id, db))
    db.commit()
```

### requirements.txt

```
fastapi==0.115.6
sqlalchemy==2.0.36
uvicorn==0.34.0
```

Start it with `uvicorn main:app`.'''


def written(thing: str, fields: list[Field]) -> str:
    """The answer. Columns without a default come first, as they are given."""
    return (
        PROGRAM.replace("{things}", plural(thing))
        .replace("{thing}", thing)
        .replace("{Thing}", thing.capitalize())
        .replace("{columns}", "\n".join(field.column for field in fields))
        .replace("{attributes}", "\n".join(field.attribute for field in fields))
    )
