"""Meter the together SDK: a completion and a stream.

python examples/sdk/with_together.py      (reads TOGETHER_API_KEY and, if set, TOGETHER_BASE_URL)
"""

import together

from meterd_middleware import Meter, instrument

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
TAGS = {"X-Client-ID": "acme-corp", "X-Project-ID": "support-chatbot"}


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-together") as meter:
        client = instrument(together.Together(), meter=meter)

        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Where is my parcel?"}],
            extra_headers=TAGS,
        )
        message = answer.choices[0].message if answer.choices else None
        print(message.content if message else "")

        for chunk in client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "And when will it arrive?"}],
            stream=True,
            extra_headers=TAGS,
        ):
            print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="")
        print()


if __name__ == "__main__":
    main()
