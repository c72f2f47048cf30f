defmodule DSPex.Python.Pool.OpenBatchesTest do
  use ExUnit.Case, async: true

  alias DSPex.Python.Pool.OpenBatches

  test "counts only batches that are open, also before the end of one is noticed" do
    pool = make_ref()
    assert OpenBatches.cancel(pool, "b") == 0
    [first, second, third] = for _ <- 1..3, do: OpenBatches.begun(pool, "b")
    %{ref: second_ref} = second
    %{ref: third_ref} = third

    # So that the end is noticed late.
    :sys.suspend(OpenBatches)

    try do
      OpenBatches.ended(first)
      assert OpenBatches.cancel(pool, "b") == 2
      assert OpenBatches.cancel(pool, "b") == 2
    after
      :sys.resume(OpenBatches)
    end

    for ref <- [second_ref, third_ref], do: assert_receive({:dspex_batch_cancelled, ^ref})
    refute OpenBatches.cancelled?(first)
    assert OpenBatches.cancelled?(second)
    for batch <- [second, third], do: OpenBatches.ended(batch)
    assert OpenBatches.cancel(pool, "b") == 0
    refute_received {:dspex_batch_cancelled, _ref}
  end
end
