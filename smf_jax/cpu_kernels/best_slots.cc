// The best k slots of every query and head, from the scores of both halves' keys (PKM 1907.05242,
// section 3.1), exactly and in the order of `lax.top_k`: greater scores first, equal ones by place.
// (Exactly while no sum is inf - inf.)
//
// `lax.top_k` sorts every row of scores whole, on one core. Here a bound that k scores reach is read
// off the maxima of groups; the few scores that reach it are ranked by counting those before each.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

constexpr int64_t kTokensOfABlock = 16;
// From this many candidates on, sorting them is faster than comparing each with each.
constexpr int64_t kCompared = 256;

// Integers that compare as scores do: -NaN, -inf, ..., 0 (of either sign), ..., inf, NaN.
inline int32_t OrderOf(float score) {
  score += 0.0f;  // -0.0 becomes 0.0
  int32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return bits ^ ((bits >> 31) & std::numeric_limits<int32_t>::max());
}

inline int64_t OrderOf(double score) {
  score += 0.0;
  int64_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return bits ^ ((bits >> 63) & std::numeric_limits<int64_t>::max());
}

// Scores that are compared with another at once, in vector registers.
constexpr int64_t kLanes = 32;

constexpr int64_t InVectors(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Finds the places of the k best of n scores. One object serves one thread.
template <typename Score>
class Ranking {
 public:
  Ranking(int64_t n, int64_t k)
      : n_(n),
        k_(k),
        groups_(InVectors(2 * k)),
        orders_(n),
        maxima_(groups_),
        before_(std::max(groups_, kCompared)),
        candidates_(n),
        candidate_orders_(InVectors(n)),
        ranked_(kCompared),
        equal_(kCompared) {}

  void operator()(const Score* scores, int32_t* places) {
    for (int64_t i = 0; i < n_; ++i) orders_[i] = OrderOf(scores[i]);
    const int64_t candidates = FindCandidates();
    if (candidates > kCompared) {
      SortCandidates(candidates);
      std::copy_n(candidates_.begin(), k_, places);
    } else {
      RankCandidates(candidates);
      std::copy_n(ranked_.begin(), k_, places);
    }
  }

 private:
  using Order = decltype(OrderOf(Score()));

  // Writes the ascending places of all scores that reach the bound.
  int64_t FindCandidates() {
    const Order bound = n_ > groups_ ? Bound() : std::numeric_limits<Order>::min();
    const Order* const orders = orders_.data();
    int32_t* const candidates = candidates_.data();
    int64_t found = 0;
    for (int64_t i = 0; i < n_; ++i) {
      candidates[found] = static_cast<int32_t>(i);
      found += orders[i] >= bound;
    }
    return found;
  }

  // The k-th greatest maximum of groups: the k best reach it. Group g holds the places g modulo the
  // number of groups, so that neighbours, which are compared at once, are of different groups.
  Order Bound() {
    const Order* const orders = orders_.data();
    Order* const maxima = maxima_.data();
    std::copy_n(orders, groups_, maxima);
    int64_t start = groups_;
    for (; start + groups_ <= n_; start += groups_) {
      for (int64_t g = 0; g < groups_; ++g) maxima[g] = std::max(maxima[g], orders[start + g]);
    }
    for (int64_t g = 0; start + g < n_; ++g) maxima[g] = std::max(maxima[g], orders[start + g]);
    CountGreater(maxima, groups_);
    Order bound = std::numeric_limits<Order>::max();
    for (int64_t g = 0; g < groups_; ++g) {
      if (before_[g] < k_) bound = std::min(bound, maxima[g]);
    }
    return bound;
  }

  // Greater candidates come first, equal ones in the order of their places, which they stand in.
  void RankCandidates(int64_t candidates) {
    for (int64_t i = 0; i < candidates; ++i) candidate_orders_[i] = orders_[candidates_[i]];
    CountGreater(candidate_orders_.data(), candidates);
    std::fill_n(equal_.begin(), candidates, 0);
    for (int64_t i = 0; i < candidates; ++i) {
      const Order before = before_[i];
      ranked_[before + equal_[before]++] = candidates_[i];
    }
  }

  // before_[i] = how many of all are greater than orders[i].
  void CountGreater(const Order* orders, int64_t count) {
    for (int64_t start = 0; start < count; start += kLanes) {
      Order mine[kLanes], before[kLanes] = {};
      std::copy_n(orders + start, kLanes, mine);
      for (int64_t other = 0; other < count; ++other) {
        const Order order = orders[other];
        for (int64_t lane = 0; lane < kLanes; ++lane) before[lane] += order > mine[lane];
      }
      std::copy_n(before, kLanes, before_.begin() + start);
    }
  }

  void SortCandidates(int64_t candidates) {
    const auto begin = candidates_.begin();
    std::partial_sort(begin, begin + k_, begin + candidates, [this](int32_t a, int32_t b) {
      return orders_[a] != orders_[b] ? orders_[a] > orders_[b] : a < b;
    });
  }

  const int64_t n_, k_, groups_;
  std::vector<Order> orders_, maxima_, before_;
  std::vector<int32_t> candidates_;
  std::vector<Order> candidate_orders_;
  std::vector<int32_t> ranked_, equal_;
};

// Both halves' k best scores, and the pairs of them that can be among the k best sums.
template <typename Score>
class Query {
 public:
  Query(int64_t keys, int64_t k) : keys_(keys), k_(k), rank_half_(keys, k) {
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; (i + 1) * (j + 1) <= k; ++j) pairs_.push_back({i, j});
    }
    sums_.resize(pairs_.size());
    rank_sums_ = std::make_unique<Ranking<Score>>(pairs_.size(), k);
    for (Half& half : halves_) half = {std::vector<int32_t>(k), std::vector<Score>(k)};
    winners_.resize(k);
  }

  void operator()(const Score* first, const Score* second, Score* scores, int32_t* slots) {
    FindBest(first, halves_[0]);
    FindBest(second, halves_[1]);
    for (size_t pair = 0; pair < pairs_.size(); ++pair) {
      const auto [i, j] = pairs_[pair];
      sums_[pair] = halves_[0].scores[i] + halves_[1].scores[j];
    }
    (*rank_sums_)(sums_.data(), winners_.data());
    for (int64_t read = 0; read < k_; ++read) {
      const auto [i, j] = pairs_[winners_[read]];
      scores[read] = sums_[winners_[read]] + Score(0);  // Flushed to zero, a sum may be -0.0 too.
      slots[read] = static_cast<int32_t>(halves_[0].keys[i] * keys_ + halves_[1].keys[j]);
    }
  }

 private:
  struct Half {
    std::vector<int32_t> keys;
    std::vector<Score> scores;
  };
  struct Pair {
    int64_t i, j;
  };

  void FindBest(const Score* scores, Half& half) {
    rank_half_(scores, half.keys.data());
    // Zeros of one sign, in what is given back too.
    for (int64_t i = 0; i < k_; ++i) half.scores[i] = scores[half.keys[i]] + Score(0);
  }

  const int64_t keys_, k_;
  std::vector<Pair> pairs_;
  Ranking<Score> rank_half_;
  std::unique_ptr<Ranking<Score>> rank_sums_;
  Half halves_[2];
  std::vector<Score> sums_;
  std::vector<int32_t> winners_;
};

// Calls work(block) for every block, on this thread and on those of XLA's pool that are free. A task
// that starts late finds no block left, so that nobody waits for one that has not started.
template <typename Work>
void InParallel(ffi::ThreadPool& pool, int64_t blocks, Work work) {
  struct Progress {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto progress = std::make_shared<Progress>();
  auto task = [progress, blocks, work] {
    int64_t done = 0;
    for (int64_t block; (block = progress->next++) < blocks; ++done) work(block);
    if (done == 0) return;
    const std::lock_guard<std::mutex> lock(progress->mutex);
    progress->done += done;
    if (progress->done == blocks) progress->all_done.notify_all();
  };
  const int64_t helpers = std::min(blocks, pool.num_threads()) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule(decltype(task)(task));
  task();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done == blocks; });
}

// half_scores (h, 2, t, n) -> scores (t, h, k), slots (t, h, k).
template <ffi::DataType type>
ffi::Error BestSlots(ffi::ThreadPool pool, ffi::Buffer<type, 4> half_scores,
                     ffi::ResultBuffer<type, 3> scores, ffi::ResultBuffer<ffi::S32, 3> slots) {
  using Score = ffi::NativeType<type>;
  const auto in = half_scores.dimensions();
  const auto out = scores->dimensions();
  const int64_t heads = in[0], tokens = in[2], keys = in[3], k = out[2];
  if (in[1] != 2 || out[0] != tokens || out[1] != heads || k < 1 || k > keys ||
      slots->element_count() != scores->element_count()) {
    return ffi::Error::InvalidArgument("expected scores (h, 2, t, n) and results (t, h, k), k <= n");
  }
  if (keys * keys > std::numeric_limits<int32_t>::max()) {
    return ffi::Error::InvalidArgument("slots of so many keys do not fit in 32 bits");
  }
  const Score* const from = half_scores.typed_data();
  Score* const to_scores = scores->typed_data();
  int32_t* const to_slots = slots->typed_data();
  const int64_t blocks_of_a_head = (tokens + kTokensOfABlock - 1) / kTokensOfABlock;
  InParallel(pool, heads * blocks_of_a_head, [=](int64_t block) {
    Query<Score> query(keys, k);
    const int64_t head = block / blocks_of_a_head;
    const int64_t start = block % blocks_of_a_head * kTokensOfABlock;
    for (int64_t token = start; token < std::min(tokens, start + kTokensOfABlock); ++token) {
      const Score* const first = from + (head * 2 * tokens + token) * keys;
      const int64_t at = (token * heads + head) * k;
      query(first, first + tokens * keys, to_scores + at, to_slots + at);
    }
  });
  return ffi::Error::Success();
}

template <ffi::DataType type>
auto Signature() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<type, 4>>()
      .template Ret<ffi::Buffer<type, 3>>()
      .template Ret<ffi::Buffer<ffi::S32, 3>>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(smf_jax_best_slots_f32, BestSlots<ffi::F32>, Signature<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(smf_jax_best_slots_f64, BestSlots<ffi::F64>, Signature<ffi::F64>());
