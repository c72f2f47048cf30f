# Tests cause crashes on purpose; their logs are shown only for failing tests.
ExUnit.start(capture_log: true)
