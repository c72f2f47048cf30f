DSPex.TestEnvironment.set()

# Tests cause crashes on purpose; their logs are shown only for failing tests. A message or a test may take long on a
# busy machine.
# `make long` and `make chaos` run those with the tag `:long`, `make cluster` those with `:cluster`.
ExUnit.start(
  formatters: [ExUnit.CLIFormatter, DSPex.FailureSummary],
  capture_log: true,
  assert_receive_timeout: 20_000,
  timeout: 240_000,
  exclude: [:long, :cluster]
)
