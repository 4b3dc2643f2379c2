import pytest

from optimize.variants import Variant, parse_variant

NAMES = {
    "fp32": Variant("source", "fp32"),
    "given-fused": Variant("source", "given", fused=True),
    "student-int8": Variant("student", "int8"),
    "student-int8-fused": Variant("student", "int8", fused=True),
    "static": Variant("static", "fp32"),
    "static-int8": Variant("static", "int8"),
}


@pytest.mark.parametrize(("name", "variant"), NAMES.items())
def test_a_name_and_its_variant_say_the_same(name: str, variant: Variant):
    assert parse_variant(name) == variant
    assert variant.name == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "fused", "int4", "student", "student-given", "static-qdq", "static-fp32"),
        *("int8-int8", "static-fused", "teacher-int8", "int8-student", "fp32-", "qdq-fused"),
    ],
)
def test_any_other_name_is_refused_with_those_there_are(name: str):
    with pytest.raises(ValueError, match=f"no variant is called '{name}': use fp32"):
        parse_variant(name)
