"""Statuses, versions, limits and worlds: the laws that hold among the constants."""

from hvfuzz.abi import boot, limits, versions
from hvfuzz.abi.status import Status


def test_statuses_survive_the_register() -> None:
    assert [status.value for status in Status] == [0, *range(-1, -19, -1)]
    for status in Status:
        assert 0 <= status.word < 2**64
        assert Status.from_word(status.word) is Status(status.value) is status
        assert status.meaning.endswith(".")
    assert Status.from_word(1) is None
    assert Status.from_word(2**64 - 19) is None


def test_features_grow_with_the_version() -> None:
    assert versions.FAMILY_BITS == 0x1FF
    assert versions.feature_bits(1) == 0
    assert versions.feature_bits(2) == 0b111
    assert [feature.bit for feature in versions.FEATURES] == list(range(len(versions.FEATURES)))


def test_limits_are_numbered_in_order() -> None:
    assert [limit.what for limit in limits.LIMITS] == list(range(10))
    assert [limit.value for limit in limits.LIMITS] == [64, 64, 128, 16, 16, 64, 16, 256, 0x800, None]


def test_the_address_space_of_a_guest_has_no_overlaps() -> None:
    assert boot.HYPERVISOR_HOLE_END == boot.DIRECT_MAP
    assert limits.MAX_GFN * 4096 <= boot.DIRECT_MAP_SIZE
    arguments = range(boot.ARGUMENT_GFN, boot.ARGUMENT_GFN + 2)
    users = range(boot.USER_GFN, boot.USER_GFN + boot.USER_PAGES)
    used = [*boot.TABLE_GFNS, *arguments, *users]
    assert len(set(used)) == len(used)
    assert boot.argument_page(1) == 0xFFFF_8800_0001_1000
    assert boot.ARG_STRUCT + limits.STRUCT_MAX <= boot.ARG_ARRAYS < boot.ARG_NESTED < 4096


def test_worlds() -> None:
    assert [world.name for world in boot.WORLDS] == ["pair", "old", "devices", "bare", "virtio", "reserved"]
    assert boot.WORLDS_BY_NAME["old"].domains[2].abi_version == 1
    for world in boot.WORLDS:
        control, *guests = world.domains
        assert control.privileged
        assert (control.vcpus, control.ram_pages) == (1, 64)
        assert len(guests) == 2
        devices = [device for domain in world.domains for device in domain.devices]
        assert len(set(devices)) == len(devices)
        assert all(device < boot.DEVICES for device in devices)
        for reserved in world.reserved:
            assert reserved.device < boot.DEVICES
            assert reserved.base % 4096 == 0
            assert reserved.base + reserved.pages * 4096 <= 16 << 20, "in the smallest memory that worlds boot in"
        for domain in world.domains:
            assert versions.MIN <= domain.abi_version <= versions.CURRENT
            assert boot.USER_GFN + boot.USER_PAGES <= domain.ram_pages <= limits.MAX_GFN
