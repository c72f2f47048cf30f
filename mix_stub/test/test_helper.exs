# Expected crashes are part of what is tested; their logs are shown only for a test that fails.
ExUnit.start(capture_log: true)
