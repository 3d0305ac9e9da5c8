"""Models of pydantic and msgspec come back as they were, where these are installed."""

import datetime
import decimal
import uuid
from typing import Any

import pytest
from support.codecs import Color

from kvserve import codecs
from kvserve.client.values import with_own
from kvserve.errors import InvalidValue, UnreadableValue


def restored(value: Any, *kinds: Any) -> Any:
    """What comes back."""
    values = with_own(codecs.models(*kinds))
    return values.decode(*values.encode(value))


def test_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        model_config = pydantic.ConfigDict(frozen=True)
        id: uuid.UUID
        price: decimal.Decimal = decimal.Decimal(1)

    class Order(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        model_config = pydantic.ConfigDict(extra="allow")
        items: list[Item]
        at: datetime.datetime
        color: Color = Color.RED
        alias: int = pydantic.Field(default=3, alias="other", exclude=True)
        _note: str = pydantic.PrivateAttr(default="none")

        @pydantic.field_validator("items")
        @classmethod
        def count(cls, items: list[Item]) -> list[Item]:
            return [*items, items[0]]  # were it run again, there would be one more

    class Special(Order):
        more: int = 1

    order = Order(items=[Item(id=uuid.UUID(int=1))], at=datetime.datetime(2026, 1, 1), x={"y": 1})
    order._note = "kept"
    found = restored(order, Order)
    assert found == order
    assert type(found) is Order
    assert type(found.items[0]) is Item
    assert (found._note, found.model_extra) == ("kept", {"x": {"y": 1}})
    assert found.model_fields_set == order.model_fields_set
    found.color = Color.RED
    assert "color" in found.model_fields_set
    assert "color" not in order.model_fields_set
    assert restored([order, None], Order | None) == [order, None]
    special = Special(items=[Item(id=uuid.UUID(int=1))], at=datetime.datetime(2026, 1, 1))
    with pytest.raises(InvalidValue, match="Special is not known"):
        restored(special, Order)
    Root = pydantic.RootModel[list[int]]  # noqa: N806
    assert restored(Root([1, 2]), Root) == Root([1, 2])


def test_pydantic_dataclasses() -> None:
    pydantic = pytest.importorskip("pydantic")

    @pydantic.dataclasses.dataclass
    class Pair:
        one: int
        two: datetime.date

    pair = Pair(1, datetime.date(2026, 1, 1))
    assert restored(pair, Pair) == pair
    assert type(restored(pair, Pair)) is Pair


def test_msgspec() -> None:
    msgspec = pytest.importorskip("msgspec")

    class Item(msgspec.Struct, frozen=True):  # type: ignore[name-defined, misc, call-arg]
        id: uuid.UUID

    class Order(msgspec.Struct, kw_only=True):  # type: ignore[name-defined, misc, call-arg]
        items: list[Item]
        color: Color = Color.RED
        made: int = 0

        def __post_init__(self) -> None:
            self.made += 1

    order = Order(items=[Item(uuid.UUID(int=1))])
    found = restored([order], Order, Item)[0]
    assert found == order
    assert (type(found), type(found.items[0]), found.made) == (Order, Item, 1)
    old = with_own(codecs.models(Item))
    payload = old.encode(Item(uuid.UUID(int=1)))[1]

    class Changed(msgspec.Struct):  # type: ignore[name-defined, misc]
        id: uuid.UUID
        more: int

    Changed.__module__, Changed.__qualname__ = Item.__module__, Item.__qualname__
    with pytest.raises(UnreadableValue, match="other fields now: more"):
        with_own(codecs.models(Changed)).decode(66, payload)
