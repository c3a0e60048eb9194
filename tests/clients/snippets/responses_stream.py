from openai import OpenAI
client = OpenAI(
    api_key="YOUR_API_KEY",
    base_url="https://broker.example/v1"
)

response = client.responses.create(
    model="openai/o1-pro",
    input="Tell me a three sentence bedtime story about a unicorn.",
    stream=True
)

for event in response:
    print(event)
