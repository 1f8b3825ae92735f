"""Who pays for a call: the order of the sources, and ids that can't be used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd_middleware.tags import (
    UNATTRIBUTED,
    Payer,
    Tags,
    current_tags,
    serving_request,
    tag_request,
    tagged,
    who_pays,
    why_invalid,
)


def test_the_calls_own_header_comes_before_everything_else() -> None:
    with serving_request(Tags("inbound")), tagged(client="block"):
        assert who_pays(["call"], [], "default").tags == Tags("call")


def test_a_tagged_block_comes_before_the_inbound_request() -> None:
    with serving_request(Tags("inbound")), tagged(client="block", project="p"):
        assert who_pays(default_client="default").tags == Tags("block", "p")


def test_the_inbound_request_comes_before_the_meters_client() -> None:
    with serving_request(Tags("inbound", "p")):
        assert who_pays(default_client="default").tags == Tags("inbound", "p")


def test_the_meters_client_is_the_last_who_can_be_named() -> None:
    assert who_pays(default_client="default") == Payer(Tags("default"))


def test_a_call_that_names_nobody_is_unattributed_and_said_to_be() -> None:
    assert who_pays() == Payer(Tags(UNATTRIBUTED), is_named=False)


def test_the_innermost_block_wins_and_the_outer_one_is_back_afterwards() -> None:
    with tagged(client="outer"):
        with tagged(Tags("inner", "p")):
            assert current_tags() == Tags("inner", "p")
        assert current_tags() == Tags("outer")
    assert current_tags() is None


def test_a_login_that_runs_late_tags_the_request_it_serves() -> None:
    with serving_request(None):
        assert who_pays().is_named is False
        assert tag_request(client="acme-corp", project="support-chatbot")
        assert who_pays().tags == Tags("acme-corp", "support-chatbot")


def test_tag_request_outside_of_a_request_says_that_it_tagged_nothing() -> None:
    assert tag_request(client="acme-corp") is False
    assert current_tags() is None


def test_a_project_in_the_header_belongs_to_the_client_in_force() -> None:
    with tagged(client="acme-corp", project="other"):
        assert who_pays([], ["support-chatbot"]).tags == Tags("acme-corp", "support-chatbot")


def test_a_project_without_a_client_is_unattributed_and_noted() -> None:
    payer = who_pays([], ["support-chatbot"])

    assert payer == Payer(
        Tags(UNATTRIBUTED, "support-chatbot"), "a project without a client", is_named=False
    )


def test_an_empty_client_header_is_no_client() -> None:
    with tagged(client="acme-corp"):
        assert who_pays([""], []).tags == Tags("acme-corp")


@pytest.mark.parametrize(
    ("client", "note"),
    [
        ("x" * 129, "the client id has 129 characters, at most 128 are allowed"),
        ("acme\x07", "the client id has control characters"),
        ("acme\n", "the client id has control characters"),
        ("äcme", "the client id has characters outside ASCII"),
        (" acme", "the client id begins or ends with a blank"),
    ],
)
def test_an_id_that_cant_be_used_is_unattributed_and_noted(client: str, note: str) -> None:
    """Billing the next in line would bill somebody whom the app did not name."""
    with tagged(client="somebody-else"):
        assert who_pays([client], []) == Payer(Tags(UNATTRIBUTED), note)


def test_an_id_that_is_no_string_is_unattributed_and_noted() -> None:
    """Straight from a database, as `tagged(client=user.agency_id)` would have it."""
    number: Any = 42
    with tagged(client=number):
        assert who_pays() == Payer(Tags(UNATTRIBUTED), "the client id is no string")


def test_two_client_headers_that_contradict_each_other_name_nobody() -> None:
    assert who_pays(["acme-corp", "bigco-inc"], []) == Payer(
        Tags(UNATTRIBUTED), "two different X-Client-ID headers"
    )


def test_two_client_headers_that_agree_name_their_client() -> None:
    assert who_pays(["acme-corp", "acme-corp"], []).tags == Tags("acme-corp")


def test_a_project_that_cant_be_used_is_left_out_and_noted() -> None:
    payer = who_pays(["acme-corp"], ["p" * 200])

    assert payer == Payer(
        Tags("acme-corp"), "the project id has 200 characters, at most 128 are allowed"
    )


def test_ids_compare_exactly() -> None:
    assert who_pays(["Acme-Corp"], []).tags != Tags("acme-corp")


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=140), st.text(max_size=140))
def test_whatever_is_named_the_payer_has_ids_that_can_be_used(client: str, project: str) -> None:
    tags = who_pays([client], [project]).tags

    assert not why_invalid(tags.client)
    assert not tags.project or not why_invalid(tags.project)


def test_tags_travel_through_headers() -> None:
    tags = Tags("acme-corp", "support-chatbot")

    assert Tags.from_headers(tags.headers()) == tags
    assert Tags.from_headers({"x-client-id": "acme-corp"}) == Tags("acme-corp")
    assert Tags.from_headers({"X-Project-ID": "p"}) is None
