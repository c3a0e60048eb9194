from openai import OpenAI
client = OpenAI(
    api_key="YOUR_API_KEY",
    base_url="https://broker.example/v1"
)

# Non-streaming response
response = client.responses.create(
    model="openai/o1-pro",
    input="Tell me a three sentence bedtime story about a unicorn.",
    max_output_tokens=100
)

print(response)
