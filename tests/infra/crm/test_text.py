import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.crm.text import cut, plain


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("plain text", "plain text"),
        ("<p>One</p><p>Two</p>", "One\n\nTwo"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("SSO &amp; SCIM &lt;now&gt;", "SSO & SCIM <now>"),
        ("<script>steal()</script>x<style>p{}</style>", "x"),
        ("price < 10 and > 5", "price < 10 and > 5"),
        ("a\u00a0\u200b b", "a b"),
        ("<a href='javascript:evil()'>link</a>", "link"),
        ("<ul><li>one<li>two</ul>", "one\ntwo"),
        ("unclosed <b>bold", "unclosed bold"),
        ("\r\na\r\n\r\n\r\n\r\nb", "a\n\nb"),
        ("nul\x00byte", "nulbyte"),
    ],
)
def test_markup_goes_and_text_stays(given, found):
    assert plain(given) == found


@given(st.text(max_size=500))
def test_anything_at_all_is_read_and_plain_text_keeps_its_words(text):
    assert "\x00" not in plain(text)


@given(st.text(max_size=100), st.integers(1, 120))
def test_a_cut_text_fits(text, limit):
    assert len(cut(text, limit)) <= limit
    assert cut(text, limit) == text or cut(text, limit).endswith("…")
