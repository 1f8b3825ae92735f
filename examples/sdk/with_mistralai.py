"""Meter the mistralai SDK: a completion and a stream.

python examples/sdk/with_mistralai.py      (reads MISTRAL_API_KEY)
"""

import os

from mistralai.client import Mistral
from mistralai.client.models import UserMessage

from meterd_middleware import Meter, instrument

TAGS = {"X-Client-ID": "acme-corp", "X-Project-ID": "support-chatbot"}


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-mistralai") as meter:
        client = instrument(
            Mistral(
                api_key=os.environ["MISTRAL_API_KEY"],
                server_url=os.environ.get("MISTRAL_SERVER_URL"),
            ),
            meter=meter,
        )

        answer = client.chat.complete(
            model="mistral-small-latest",
            messages=[UserMessage(content="Where is my parcel?")],
            http_headers=TAGS,
        )
        message = answer.choices[0].message if answer.choices else None
        print(message.content if message else "")

        for event in client.chat.stream(
            model="mistral-small-latest",
            messages=[UserMessage(content="And when will it arrive?")],
            http_headers=TAGS,
        ):
            print(event.data.choices[0].delta.content or "", end="")
        print()


if __name__ == "__main__":
    main()
