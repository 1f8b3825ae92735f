"""Meter the ollama SDK, which takes no headers a call: the tags come from `tagged`.

python examples/sdk/with_ollama.py      (reads OLLAMA_HOST)
"""

import ollama

from meterd_middleware import Meter, instrument, tagged


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-ollama") as meter:
        client = instrument(ollama.Client(), meter=meter)

        with tagged(client="acme-corp", project="support-chatbot"):
            answer = client.chat(
                model="llama3.3", messages=[{"role": "user", "content": "Where is my parcel?"}]
            )
            print(answer.message.content)

            for part in client.generate(model="llama3.3", prompt="And when?", stream=True):
                print(part.response, end="")
            print()


if __name__ == "__main__":
    main()
