"""Meter the openai SDK: chat, a stream, responses and embeddings.

python examples/sdk/with_openai.py      (reads OPENAI_API_KEY and, if set, OPENAI_BASE_URL)
"""

import openai

from meterd_middleware import Meter, instrument

TAGS = {"X-Client-ID": "acme-corp", "X-Project-ID": "support-chatbot"}


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-openai") as meter:
        client = instrument(openai.OpenAI(), meter=meter)

        answer = client.chat.completions.create(
            model="gpt-5.4-mini",
            messages=[{"role": "user", "content": "Where is my parcel?"}],
            extra_headers=TAGS,
        )
        print(answer.choices[0].message.content)

        # A stream reports its usage only if asked to; where the host is known to accept it,
        # the meter asks, and takes out again what that adds.
        stream = client.chat.completions.create(
            model="gpt-5.4-mini",
            messages=[{"role": "user", "content": "And when will it arrive?"}],
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=TAGS,
        )
        for chunk in stream:
            print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="")
        print()

        response = client.responses.create(
            model="gpt-5.4-mini", input="Summarise the complaint.", extra_headers=TAGS
        )
        print(response.output_text)

        client.embeddings.create(
            model="text-embedding-3-small", input=["parcel", "delivery"], extra_headers=TAGS
        )


if __name__ == "__main__":
    main()
