// Runs the scheduler with random requests, cancellations, deadlines and a cache that is too small
// for them. After every step it checks the invariants. A failure names the seed.
#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>

#include "engine/scheduler/scheduler.h"
#include "gtest/gtest.h"
#include "tests/support/sanitizers.h"
#include "tests/support/second_per_row.h"

namespace kascade {
namespace {

constexpr uint32_t kSeeds = testing::repetitions(100);
constexpr int32_t kSteps = 600;  // with arrivals; then until all is done

class RandomLoad {
 public:
  explicit RandomLoad(uint32_t seed)
      : random_(seed),
        limits_(make_limits()),
        row_rule_limit_(between(0, 1) * between(1, 40)),
        block_size_(pick({1, 4, 16, 32})),
        blocks_(between(150, 1500) / block_size_, block_size_),
        scheduler_(limits_, blocks_, &predictor_) {}

  void run() {
    for (int32_t step = 0; step < kSteps && !::testing::Test::HasFailure(); ++step) {
      for (int32_t arrivals = between(0, 2); arrivals > 0; --arrivals) admit();
      if (between(0, 19) == 0) cancel_one();
      plan_and_commit();
    }
    // Each plan feeds at least one row to the first sequence, so this bounds the steps that are
    // left.
    int64_t bound = 2;
    for (const auto& [id, live] : live_) bound += scheduler_.find(id)->spec.max_tokens * 2;
    for (; !live_.empty() && bound > 0 && !::testing::Test::HasFailure(); --bound)
      plan_and_commit();
    EXPECT_TRUE(live_.empty());
    EXPECT_EQ(blocks_.free_blocks(), blocks_.total_blocks());
    EXPECT_TRUE(scheduler_.plan(now_).empty());
    EXPECT_GT(ended_, 0);
  }

  int64_t preemptions() const { return scheduler_.preemptions(); }

 private:
  // What the test knows of a sequence by itself.
  struct Live {
    int32_t computed = 0;
    bool ran = false;
    std::vector<int32_t> logits{};  // [feed_end] times that a text's row was asked for
  };

  int32_t between(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  int32_t pick(std::vector<int32_t> values) {
    return values[static_cast<size_t>(between(0, static_cast<int32_t>(values.size()) - 1))];
  }

  SchedulerLimits make_limits() {
    const int32_t sequences = between(2, 8);
    return {.max_batch_tokens = sequences + 256 + between(0, 1) * between(0, 99),
            .max_sequences = sequences,
            .context = 2000,
            .max_step_seconds = static_cast<double>(pick({0, 0, 5, 70})),
            .batch_share = pick({1, 10, 50}),
            .background_share = pick({0, 25, 200}),
            .max_background_step_seconds = static_cast<double>(pick({0, 50}))};
  }

  void admit() {
    const bool generates = between(0, 1) == 0;
    const int32_t size = std::min(between(2, 60) * pick({1, 1, 4, 20}), limits_.context - 150);
    SequenceSpec spec{.tokens = std::vector<Token>(static_cast<size_t>(size), 1),
                      .generates = generates,
                      .max_tokens = size + (generates ? between(1, 150) : 0),
                      .prefill_end = pick({0, size / 2, size}),
                      .query_tile = pick({16, 32, 128, 1}),
                      .max_per_query_rows = row_rule_limit_,
                      .first_logit = between(0, size - 1),
                      .branches = generates ? 1 : between(1, 2)};
    spec.priority = kEveryPriority[static_cast<size_t>(pick({0, 0, 1, 2}))];
    spec.client = std::string(1, static_cast<char>('a' + between(0, 3)));
    if (between(0, 9) == 0) spec.deadline = now_ + absl::Seconds(between(0, 40));
    const SeqId id = next_id_++;
    const int32_t needed = spec.branches * blocks_.blocks_for(spec.max_tokens - 1);
    const absl::Status status = scheduler_.admit(id, spec);
    if (needed > blocks_.total_blocks()) {
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    }
    if (status.ok()) live_[id].logits.resize(static_cast<size_t>(size));
  }

  void cancel_one() {
    if (live_.empty()) return;
    const auto victim =
        std::next(live_.begin(), between(0, static_cast<int32_t>(live_.size()) - 1));
    scheduler_.cancel(victim->first);
    live_.erase(victim);
  }

  void plan_and_commit() {
    now_ += absl::Seconds(1);
    const StepPlan plan = scheduler_.plan(now_);
    for (const auto& sequence : plan.expired) live_.erase(sequence->id);
    note_preemptions();
    EXPECT_EQ(plan.empty(), live_.empty());
    check_cache();
    check_order(plan);
    check_rows(plan);
    check_time(plan);
    check_background(plan);
    if (between(0, 49) == 0) cancel_one();
    for (const auto& sequence : scheduler_.commit(plan, outcomes(plan))) end(sequence->id);
  }

  void note_preemptions() {
    for (auto& [id, live] : live_) {
      const bool runs = scheduler_.find(id)->running();
      if (live.ran && !runs) live.computed = 0;
      live.ran = runs;
    }
  }

  void check_cache() {
    std::vector<bool> held(static_cast<size_t>(blocks_.total_blocks()));
    int32_t count = 0;
    int32_t places = 0;
    for (const auto& [id, live] : live_) {
      for (const BlockTable& table : scheduler_.find(id)->tables) {
        for (const int32_t block : table.blocks()) {
          EXPECT_FALSE(held.at(static_cast<size_t>(block))) << "a block is held twice";
          held[static_cast<size_t>(block)] = true;
          ++count;
        }
        ++places;
      }
    }
    EXPECT_EQ(count + blocks_.free_blocks(), blocks_.total_blocks());
    EXPECT_LE(places, limits_.max_sequences);
  }

  // The first gets rows unless it waits for a start, the running precede the waiting, and who
  // decodes is served.
  void check_order(const StepPlan& plan) {
    std::set<SeqId> fed;
    for (const Slice& slice : plan.slices) fed.insert(slice.seq);
    const Sequence* previous = nullptr;
    int32_t promoted = 0;
    for (const SeqId id : scheduler_.ids()) {
      const Sequence* sequence = scheduler_.find(id);
      if (previous == nullptr && sequence->has_started) {
        EXPECT_TRUE(fed.contains(id)) << "the first waits";
      }
      if (previous != nullptr) {
        EXPECT_LE(previous->rank(), sequence->rank());
      }
      if (previous != nullptr && previous->rank() == sequence->rank()) {
        EXPECT_GE(previous->running(), sequence->running());
        EXPECT_GE(previous->has_started, sequence->has_started);
      }
      if (sequence->running() && sequence->decoding() &&
          sequence->rank() == Priority::kInteractive) {
        EXPECT_TRUE(fed.contains(id) || blocks_.free_blocks() == 0);
      }
      promoted += sequence->promoted ? 1 : 0;
      previous = sequence;
    }
    EXPECT_LE(promoted, 1);
  }

  // Beside interactive rows, background work keeps to its shares of rows and of time; the fake
  // forecast is a second per row.
  void check_background(const StepPlan& plan) {
    int32_t interactive = 0, batch = 0, background = 0;
    for (const Slice& slice : plan.slices) {
      const Priority priority = scheduler_.find(slice.seq)->spec.priority;
      (priority == Priority::kInteractive ? interactive
       : priority == Priority::kBatch     ? batch
                                          : background) += slice.count;
    }
    if (interactive == 0) return;
    EXPECT_LE(100 * background, limits_.background_share * limits_.max_batch_tokens);
    EXPECT_LE(100 * background, limits_.background_share * (interactive + batch));
  }

  void check_rows(const StepPlan& plan) {
    int32_t rows = 0;
    int32_t row_rule_rows = 0;
    std::set<SeqId> seen;
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const Slice& slice = plan.slices[i];
      const Sequence& sequence = *scheduler_.find(slice.seq);
      rows += slice.count;
      check_slice(slice, sequence);
      if (slice.branch > 0) {
        const Slice& dense = plan.slices[i - 1];
        EXPECT_TRUE(dense.seq == slice.seq && dense.branch == 0 && dense.begin == slice.begin &&
                    dense.count == slice.count && dense.first_logit == slice.first_logit);
        continue;
      }
      EXPECT_TRUE(seen.insert(slice.seq).second) << "fed twice in one step";
      EXPECT_TRUE(sequence.spec.branches == 1 || plan.slices.at(i + 1).branch == 1);
      const int32_t row_part = std::max(slice.begin, sequence.spec.prefill_end);
      if (sequence.feed_end() - row_part > 1) {
        row_rule_rows += std::max(0, slice.begin + slice.count - row_part);
      }
    }
    EXPECT_LE(rows, limits_.max_batch_tokens);
    if (row_rule_limit_ > 0) {
      EXPECT_LE(row_rule_rows, row_rule_limit_);
    }
  }

  // While sequences decode, a step is as short as was asked for, or has one chunk of a tile.
  void check_time(const StepPlan& plan) {
    int32_t decoding = 0, rows = 0, least = 0;
    std::set<SeqId> chunks;
    for (const Slice& slice : plan.slices) {
      const Sequence& sequence = *scheduler_.find(slice.seq);
      const bool decodes = sequence.decoding() && sequence.spec.priority != Priority::kBackground;
      rows += slice.count;
      decoding += decodes ? 1 : 0;
      if (decodes) continue;
      chunks.insert(slice.seq);
      least = sequence.spec.branches * sequence.spec.query_tile;
    }
    if (limits_.max_step_seconds == 0 || decoding == 0 || rows <= limits_.max_step_seconds) return;
    EXPECT_LE(chunks.size(), 1u);
    EXPECT_LE(rows, decoding + least);
  }

  void check_slice(const Slice& slice, const Sequence& sequence) {
    Live& live = live_[slice.seq];
    const SequenceSpec& spec = sequence.spec;
    const int32_t end = slice.begin + slice.count;
    EXPECT_EQ(slice.begin, live.computed) << "a row is fed twice, or left out";
    EXPECT_GT(slice.count, 0);
    EXPECT_LE(end, sequence.feed_end());
    if (slice.begin < spec.prefill_end) {
      EXPECT_EQ(slice.begin % spec.query_tile, 0);
    }
    if (end < std::min(spec.prefill_end, sequence.feed_end())) {
      EXPECT_EQ(end % spec.query_tile, 0);
    }
    const auto table = sequence.tables.at(static_cast<size_t>(slice.branch)).blocks();
    EXPECT_GE(static_cast<int32_t>(table.size()) * blocks_.block_size(), end);
    if (slice.branch > 0) return;
    if (spec.generates) {
      EXPECT_EQ(slice.first_logit, static_cast<int32_t>(sequence.tokens.size()) - 1);
      return;
    }
    for (int32_t row = std::max(slice.begin, slice.first_logit); row < end; ++row) {
      ++live.logits.at(static_cast<size_t>(row));
    }
  }

  std::vector<Outcome> outcomes(const StepPlan& plan) {
    std::vector<Outcome> result;
    for (const Slice& slice : plan.slices) {
      const Sequence* sequence = scheduler_.find(slice.seq);
      if (sequence == nullptr || slice.branch > 0) continue;
      Live& live = live_[slice.seq];
      live.computed += slice.count;
      if (sequence->spec.generates && live.computed == sequence->feed_end()) {
        result.push_back({.seq = slice.seq, .generated = 7, .finished = between(0, 99) == 0});
      }
      if (!sequence->spec.generates && live.computed == sequence->feed_end()) {
        check_logits(*sequence, live);
      }
    }
    return result;
  }

  static void check_logits(const Sequence& sequence, const Live& live) {
    for (int32_t row = 0; row < sequence.feed_end(); ++row) {
      EXPECT_EQ(live.logits[static_cast<size_t>(row)], row >= sequence.spec.first_logit ? 1 : 0)
          << "row " << row;
    }
  }

  void end(SeqId id) {
    EXPECT_EQ(scheduler_.find(id), nullptr);
    EXPECT_EQ(live_.erase(id), 1u);
    ++ended_;
  }

  std::mt19937 random_;
  SchedulerLimits limits_;
  int32_t row_rule_limit_;  // one for all, so that a step's total can be checked
  int32_t block_size_;
  BlockAllocator blocks_;
  SecondPerRow predictor_;
  Scheduler scheduler_;
  std::map<SeqId, Live> live_{};
  absl::Time now_ = absl::UnixEpoch();
  SeqId next_id_ = 1;
  int32_t ended_ = 0;
};

TEST(SchedulerRandom, KeepsItsPromises) {
  int64_t preemptions = 0;
  for (uint32_t seed = 1; seed <= kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    RandomLoad load(seed);
    load.run();
    preemptions += load.preemptions();
  }
  EXPECT_GT(preemptions, kSeeds) << "the load is too light to test anything";
}

}  // namespace
}  // namespace kascade
