"""A cache bounded in bytes, against a list in order of use."""

from hypothesis import given
from hypothesis import strategies as st

from extensions.serving.lru_byte_cache import ByteCache

KEYS = st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 40)),
        st.tuples(st.just("get"), KEYS, st.just(0)),
        st.tuples(st.just("drop"), KEYS, st.just(0)),
    ),
    max_size=80,
)


@given(STEPS, st.integers(8, 120))
def test_what_was_used_longest_ago_goes_first(steps, most: int) -> None:
    cache: ByteCache[int, int] = ByteCache(most)
    known: list[tuple[int, int, int]] = []  # key, value, size; used last comes last
    for number, (step, key, size) in enumerate(steps):
        held = [one for one in known if one[0] == key]
        others = [one for one in known if one[0] != key]
        if step == "get":
            assert cache.get(key) == (held[0][1] if held else None)
            known = others + held
        elif step == "drop":
            cache.drop(key)
            known = others
        else:
            cache.put(key, number, size)
            known = others + ([(key, number, size)] if size <= most // 8 else [])
            while sum(one[2] for one in known) > most:
                known.pop(0)
        assert cache.size == sum(one[2] for one in known) <= most
        assert len(cache) == len(known)
    cache.clear()
    assert (len(cache), cache.size) == (0, 0)
