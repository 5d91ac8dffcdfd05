"""What the post published, for the reader to compare with. Measured there, on a Mac Studio, never here."""

MACHINE = "Mac Studio, Apple M3 Ultra (24-core CPU, 76-core GPU), 256GB, llama.cpp b8070, February 19, 2026"

COMPARISON = (
    ("Step 3.5 Flash IQ4_XS", "100GB", "46", "76-352", "196B MoE, excellent quality"),
    ("llama3.1:8b-instruct", "4.7GB", "103", "281", "2.2x faster, but far less capable"),
    ("qwen2.5-coder", "4.7GB", "102", "368", "2.2x faster, coding-focused"),
    ("codestral", "12GB", "42", "75", "Similar speed, much smaller"),
    ("deepseek-r1:70b", "42GB", "—", "—", "Crashed on M3 Ultra"),
)
"""Model, size, generation tok/s, prompt tok/s, notes."""

TESTS = (
    ("Speed", "27", "76.2", "200", "46.9", "clear and accurate"),
    ("Coding", "41", "102.1", "2000", "46.0", "five stars"),
    ("Tool calls", "318", "351.9", "152", "45.9", "partial: 1 of 2 calls"),
)
"""Test, prompt tokens, prompt tok/s, generated tokens, generation tok/s, judgement."""
