"""Declaring a hypercall: what derives from the class, and what is refused with which words."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pytest

from hvfuzz.abi.declaration import DeclarationError, Since, declaration_of, hypercall
from hvfuzz.abi.kinds import Count, DomainRef, Flags, GfnArg, Kind, Order, Rights
from hvfuzz.abi.status import Status

PopulateFlags = Annotated[int, Flags("TOP_DOWN")]


@hypercall(
    0x20,
    produces="grant_ref",
    result="the entry's number",
    errors=(Status.INVALID, Status.NO_DOMAIN),
    long=True,
)
class CreateGrant:
    """Grant `to` the access `rights`.

    More text.
    """

    LIMIT: ClassVar[int] = 3

    gfn: GfnArg
    to: DomainRef
    rights: Rights = 1

    def check(self, hv: Any, caller: Any, vcpu: Any) -> Any:
        """Use what was decoded."""
        return self.gfn, self.LIMIT


@hypercall(0x10, name="memory.populate", privileged=True)
class Populate:
    """Later fields, nested annotations, a Python keyword."""

    from_: GfnArg
    count: Count
    order: Order
    flags: Annotated[PopulateFlags, Since(2)] = 0


@hypercall(0x70, name="multicall", since=2)
class Multicall:
    """A call that is its own family, and newer than version 1."""

    entries: Annotated[int, Kind("x", 8)]


def test_what_derives_from_the_class() -> None:
    declaration = declaration_of(CreateGrant)
    assert declaration.name == "test_declaration.create_grant"
    assert declaration.family == "test_declaration"
    assert (declaration.number, declaration.produces, declaration.result) == (
        0x20,
        "grant_ref",
        "the entry's number",
    )
    assert declaration.errors == (Status.INVALID, Status.NO_DOMAIN)
    assert (declaration.since, declaration.privileged, declaration.long) == (1, False, True)
    assert declaration.doc == "Grant `to` the access `rights`.\n\nMore text."
    assert [(field.name, field.kind.name, field.default) for field in declaration.fields] == [
        ("gfn", "gfn", 0),
        ("to", "domain", 0),
        ("rights", "rights", 1),
    ]
    assert declaration.call is CreateGrant
    assert repr(declaration) == "<hypercall 0x20 test_declaration.create_grant>"


def test_instances_are_slotted_values() -> None:
    call = CreateGrant(7, 1)
    assert (call.gfn, call.to, call.rights) == (7, 1, 1)
    assert call == CreateGrant(7, 1, 1)
    assert call != CreateGrant(7, 1, 3)
    assert hash(call) == hash(CreateGrant(7, 1, 1))
    assert repr(call) == "CreateGrant(gfn=7, to=1, rights=1)"
    assert not hasattr(call, "__dict__")
    assert call.check(None, None, None) == (7, 3)


def test_later_fields_and_python_keywords() -> None:
    declaration = declaration_of(Populate)
    assert declaration.privileged
    first, *_, flags = declaration.fields
    assert (first.name, first.attribute) == ("from", "from_")
    assert (flags.since, flags.kind.names) == (2, {"TOP_DOWN": 1})
    assert set(declaration.layouts[1].offsets) == {"from", "count", "order"}
    assert set(declaration.layouts[2].offsets) == {"from", "count", "order", "flags"}


def test_a_later_call() -> None:
    declaration = declaration_of(Multicall)
    assert (declaration.name, declaration.family, declaration.since) == ("multicall", "multicall", 2)
    assert declaration.fields[0].since == 2


def declared(annotations: dict[str, object], doc: str | None = "A call.", **options: Any) -> None:
    members = {"__annotations__": annotations, "__doc__": doc, "__module__": __name__}
    members.update(options.pop("members", {}))
    hypercall(**{"number": 1, **options})(type("Odd", (), members))


@pytest.mark.parametrize(
    ("annotations", "options", "message"),
    [
        ({"gfn": int}, {}, r"Odd\.gfn: .* has no Kind"),
        ({"gfn": "Nowhere"}, {}, "'Nowhere' is not defined"),
        (
            {"a": Annotated[GfnArg, Since(2)], "b": GfnArg},
            {},
            r"Odd\.b: new fields go last, but the field before it, a, is newer",
        ),
        ({"a": Annotated[GfnArg, Since(3)]}, {}, r"version 3 is not in 1\.\.2"),
        ({"header": GfnArg}, {}, "header"),
        ({"a": GfnArg}, {"members": {"a": -1}}, "default -1"),
        ({"a": DomainRef}, {"members": {"a": 1 << 16}}, "default 65536 does not fit 2 bytes"),
        ({"a": Annotated[GfnArg, Since(2)]}, {"members": {"a": 1}}, "default of an appended field must be 0"),
        ({}, {"since": 3}, "version 3"),
        ({}, {"number": -1}, "does not fit a u32"),
        ({}, {"name": "Grant.Create"}, "not a valid name of a call"),
        ({}, {"doc": None}, "docstring"),
    ],
)
def test_what_breaks_a_rule_is_refused(annotations: dict[str, object], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declared(annotations, **options)


def test_only_declared_classes_have_a_declaration() -> None:
    with pytest.raises(DeclarationError, match="int is not declared"):
        declaration_of(int)
