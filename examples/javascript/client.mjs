// An OpenAI client in JavaScript, metered: the gateway (examples/gateway.py) stands between.
//
//   GATEWAY_URL=http://127.0.0.1:8080 OPENAI_API_KEY=… node client.mjs

import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.GATEWAY_URL ?? "http://127.0.0.1:8080"}/openai/v1`,
  defaultHeaders: { "X-Client-ID": "acme-corp", "X-Project-ID": "support-chatbot" },
});

const answer = await client.chat.completions.create({
  model: "gpt-5.4-mini",
  messages: [{ role: "user", content: "Where is my parcel?" }],
});
console.log(answer.choices[0].message.content);

const stream = await client.chat.completions.create({
  model: "gpt-5.4-mini",
  messages: [{ role: "user", content: "And when will it arrive?" }],
  stream: true,
  stream_options: { include_usage: true },
});
let text = "";
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
console.log(text);
