// Slot ids in ascending order, and how often each occurs, in the few passes of a radix sort. XLA's
// sort on a CPU compares ids two by two, and takes twelve times as long.

#include <algorithm>
#include <array>
#include <cstdint>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

constexpr int kBits = 11;  // A histogram of so many bits fits in the first cache.
constexpr uint32_t kDigits = 1u << kBits;

// Sorts by one digit, keeping the order of equal ones.
void SortByDigit(const int32_t* from, int64_t count, int shift, int32_t* to) {
  std::array<int64_t, kDigits> place{};
  const auto digit = [shift](int32_t id) { return (static_cast<uint32_t>(id) >> shift) % kDigits; };
  for (int64_t i = 0; i < count; ++i) ++place[digit(from[i])];
  int64_t before = 0;
  for (int64_t& of_digit : place) {
    const int64_t occurrences = of_digit;
    of_digit = before;
    before += occurrences;
  }
  for (int64_t i = 0; i < count; ++i) to[place[digit(from[i])]++] = from[i];
}

// ids (m,) >= 0 -> in_order (m,), and run_lengths (m,): at the last of every run of equal ids below
// table_slots its length, 0 elsewhere.
ffi::Error SortedRuns(ffi::Buffer<ffi::S32, 1> ids, int64_t table_slots,
                      ffi::ResultBuffer<ffi::S32, 1> in_order,
                      ffi::ResultBuffer<ffi::S32, 1> run_lengths) {
  const int64_t count = ids.element_count();
  if (in_order->element_count() != static_cast<size_t>(count) ||
      run_lengths->element_count() != static_cast<size_t>(count)) {
    return ffi::Error::InvalidArgument("expected results as long as ids");
  }
  const int32_t* from = ids.typed_data();
  int32_t* const sorted = in_order->typed_data();
  int32_t* const lengths = run_lengths->typed_data();
  const int64_t largest = count == 0 ? 0 : std::max(0, *std::max_element(from, from + count));
  int passes = 1;
  while (largest >> (passes * kBits)) ++passes;
  for (int pass = 0; pass < passes; ++pass) {
    // The lengths are not there yet: every other pass writes in their place, the last does not.
    int32_t* const to = (passes - pass) % 2 ? sorted : lengths;
    SortByDigit(from, count, pass * kBits, to);
    from = to;
  }
  int64_t start = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool is_last = i + 1 == count || sorted[i + 1] != sorted[i];
    lengths[i] = is_last && sorted[i] < table_slots ? static_cast<int32_t>(i + 1 - start) : 0;
    if (is_last) start = i + 1;
  }
  return ffi::Error::Success();
}

auto Signature() {
  return ffi::Ffi::Bind()
      .Arg<ffi::Buffer<ffi::S32, 1>>()
      .Attr<int64_t>("table_slots")
      .Ret<ffi::Buffer<ffi::S32, 1>>()
      .Ret<ffi::Buffer<ffi::S32, 1>>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(smf_jax_sorted_runs, SortedRuns, Signature());
