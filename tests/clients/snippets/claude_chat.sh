curl https://broker.example/v1/chat/completions \
-H "Content-Type: application/json" \
-H "Accept: application/json" \
-H "Authorization: Bearer $YOUR_API_KEY" \
-d "{
\"model\": \"claude-haiku-4-5-20251001\",
\"messages\": [{
\"role\": \"user\",
\"content\": \"Hello, can you explain quantum mechanics to me?\"
}]
}"
