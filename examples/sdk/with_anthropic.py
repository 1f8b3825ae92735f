"""Meter the anthropic SDK: a message and a stream.

python examples/sdk/with_anthropic.py      (reads ANTHROPIC_API_KEY)
"""

import anthropic

from meterd_middleware import Meter, instrument

TAGS = {"X-Client-ID": "acme-corp", "X-Project-ID": "content-generator"}


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-anthropic") as meter:
        client = instrument(anthropic.Anthropic(), meter=meter)

        message = client.messages.create(
            model="claude-haiku-4-5",
            max_tokens=400,
            messages=[{"role": "user", "content": "Draft a launch announcement."}],
            extra_headers=TAGS,
        )
        print("".join(block.text for block in message.content if block.type == "text"))

        with client.messages.stream(
            model="claude-haiku-4-5",
            max_tokens=400,
            messages=[{"role": "user", "content": "Now shorter."}],
            extra_headers=TAGS,
        ) as stream:
            for text in stream.text_stream:
                print(text, end="")
        print()


if __name__ == "__main__":
    main()
