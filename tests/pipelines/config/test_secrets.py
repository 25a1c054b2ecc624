"""Passwords, tokens and keys are masked in addresses and in logged text, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.secrets import environment_secrets, mask_secrets, split_credentials

SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://me:{SECRET}@host:5000/x", "http://***@host:5000/x"),
        (f"at postgresql://me:{SECRET}@db/mlflow, or", "at postgresql://***@db/mlflow, or"),
        (f"http://{SECRET}@host", "http://***@host"),
        (f"http://me:a@{SECRET}@host/x@y", "http://***@host/x@y"),
        (f"s3://b/k?X-Amz-Signature={SECRET}&x=1", "s3://b/k?X-Amz-Signature=***&x=1"),
        (f"s3://b/k?AWSAccessKeyId={SECRET}", "s3://b/k?AWSAccessKeyId=***"),
        (f"https://h/?a=1&sig={SECRET}#f", "https://h/?a=1&sig=***#f"),
        (f"x?access_token={SECRET};key={SECRET}", "x?access_token=***;key=***"),
        ("models:/clothes@champion on sqlite:////tmp/a@b.db", "models:/clothes@champion on sqlite:////tmp/a@b.db"),
        ("s3://bucket/monkey=1?keyboard=2", "s3://bucket/monkey=1?keyboard=2"),
    ],
)
def test_what_is_secret_in_an_address_is_masked_and_the_rest_stays(text, shown):
    assert mask_secrets(text) == shown
    assert mask_secrets(shown) == shown


PLAIN = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6)


@given(user=PLAIN, password=PLAIN, around=st.text())
def test_no_password_of_an_address_is_left_whatever_is_around_it(user, password, around):
    address = f"http://{user}:{password}X@host/"
    assert f"{password}X" not in mask_secrets(f"{around} {address} {around}").replace(around, "")
    assert split_credentials(address) == ("http://host/", user, f"{password}X")


def test_values_of_secret_variables_are_masked_wherever_they_stand():
    environment = {
        "MLFLOW_TRACKING_PASSWORD": SECRET,
        "AWS_SECRET_ACCESS_KEY": "abc/def+ghi",
        "HOME": "/home/x",
        "A_TOKEN": "1",
    }
    secrets = environment_secrets(environment)
    assert mask_secrets(f"{SECRET} abc/def+ghi /home/x 1", secrets=secrets) == "*** *** /home/x 1"
