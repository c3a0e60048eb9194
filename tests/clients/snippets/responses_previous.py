from openai import OpenAI
client = OpenAI(
    api_key="YOUR_API_KEY",
    base_url="https://broker.example/v1"
)

# Initial request
response = client.responses.create(
    model="anthropic/claude-3-5-sonnet-latest",
    input="Who is Michael Jordan?"
)

print(f"Response ID: {response.id}")

# Follow-up request referencing the previous response
follow_up = client.responses.create(
    model="anthropic/claude-3-5-sonnet-latest",
    input="Can you tell me more about him?",
    previous_response_id=response.id
)

print(follow_up.output[0].content[0].text)
