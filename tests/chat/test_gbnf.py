"""GBNF as llama.cpp takes it."""

import pytest

from stride.chat.gbnf import lark_of_gbnf

JSON = r"""
root   ::= object  # the beginning
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    ("gbnf", "good", "bad"),
    [
        (JSON, ['{"a": [1, -2.5e3, "x\\n\\u00e9"], "b": {}}', "{}"], ["[1]", "{a: 1}", '{"a": 01}']),
        ('root ::= "yes" | "no"', ["yes", "no"], ["maybe", "yesno"]),
        ('root ::= "yes" |\n  "no"', ["no"], [""]),
        (r'root ::= "\x41\u00e9\U0001F600"', ["Aé😀"], ["x41"]),
        ("root ::= [\\u00e0-\\u00ff]+", ["éà"], ["e"]),
        ('root ::= . "x"', ["\nx", "éx", "ax"], ["x"]),
        ("root ::= [a&&b~~[]+", ["a&b~["], ["c"]),
        ("root ::= [^/\\]]+", ["a[b"], ["a/", "]"]),
        ("root ::= [-+]", ["+", "-"], [","]),
        ('root ::= "a"{2} "b"{1,} "c"{0,2}', ["aab", "aabbcc"], ["ab", "aabccc"]),
        ('root ::= start{2}\nstart ::= "a" | "b"', ["ab"], ["a", "abc"]),
        ('root ::= "(" root ")" | ""', ["(())", ""], ["(()"]),
        ('root ::= item+\nitem ::= "- " [^\\n]+ "\\n"', ["- a\n- b\n"], ["- a", "a\n"]),
    ],
)  # fmt: skip
def test_a_grammar_means_what_it_means_in_llama_cpp(matches, gbnf, good, bad):
    lark = lark_of_gbnf(gbnf)
    assert [matches(lark, text) for text in good] == [f"{text}$" for text in good]
    assert not [text for text in bad if matches(lark, text) == f"{text}$"]


@pytest.mark.parametrize(
    ("gbnf", "message"),
    [
        ("root ::= nothing", "nothing"),
        ('root ::= "a', "line 1"),
        ('root ::= "a"\n\nb ::= %', "line 3"),
        ('top ::= "a"', "root"),
        (r'root ::= "\q"', "escape"),
        (r'root ::= "\ud800"', "no character"),
        ('root ::= ("a"', "Expected"),
        ("root ::= <think>", "<think>"),
    ],
)
def test_what_is_no_gbnf_says_where(gbnf, message):
    with pytest.raises(ValueError, match=message):
        lark_of_gbnf(gbnf)
