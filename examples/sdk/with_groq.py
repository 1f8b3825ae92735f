"""Meter the groq SDK: a completion and a stream.

python examples/sdk/with_groq.py      (reads GROQ_API_KEY and, if set, GROQ_BASE_URL)
"""

import groq

from meterd_middleware import Meter, instrument

MODEL = "llama-3.3-70b-versatile"
TAGS = {"X-Client-ID": "acme-corp", "X-Project-ID": "support-chatbot"}


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-groq") as meter:
        client = instrument(groq.Groq(), meter=meter)

        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Where is my parcel?"}],
            extra_headers=TAGS,
        )
        print(answer.choices[0].message.content)

        for chunk in client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "And when will it arrive?"}],
            stream=True,
            extra_headers=TAGS,
        ):
            print(chunk.choices[0].delta.content or "", end="")
        print()


if __name__ == "__main__":
    main()
