"""The dictionary is valid for libFuzzer, and holds the opcodes, symbols and edges of the byte form."""

import re

from hvfuzz.guest.format.dictionary import dictionary
from hvfuzz.guest.program.ops import Catalogue

ENTRY = re.compile(r'\w+="((?:\\x[0-9a-f]{2})+)"')


def test_every_line_is_an_entry_and_none_comes_twice(known: Catalogue) -> None:
    lines = [line for line in dictionary(known).splitlines() if not line.startswith("#")]
    values = []
    for line in lines:
        match = ENTRY.fullmatch(line)
        assert match is not None, line
        values.append(match.group(1))
    assert len(set(values)) == len(values)


def test_it_has_opcodes_ports_registers_and_edges(own: Catalogue) -> None:
    text = dictionary(own)
    assert 'op_grant_create="\\x20"' in text
    assert 'op_load="\\x80"' in text
    assert 'msr_EFER="\\x80\\x00\\x00\\xc0"' in text
    assert 'io_port_3f8="\\xf8\\x03"' in text
    assert 'call_number_event_alloc="\\x30\\x00\\x00\\x00\\x00\\x00\\x00\\x00"' in text
    assert 'domain_SELF="\\xf0\\x7f"' in text
    assert '="\\x00\\x00\\x00\\x00\\x00\\x80\\xff\\xff"' in text  # where the hypervisor's hole begins
