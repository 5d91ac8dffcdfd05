"""`stride chat`: turns from stdin, answers on stdout, /exit ends."""


def test_a_conversation_from_stdin(stride):
    result = stride("chat", "-n", 4, "--temp", 0, stdin="Hello\n/clear\nHello\n/exit\n")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("generated 4") == 2
    assert "Stride demo" in result.stdout


def test_the_end_of_input_ends_it(stride):
    assert stride("chat", stdin="").returncode == 0
