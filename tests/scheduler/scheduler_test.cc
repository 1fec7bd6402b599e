// Runs the scripts tests/golden/scheduler/*.txt: blocks of commands, a line of ----, the expected
// output, an empty line. REWRITE=1 in the environment rewrites the expected output in place.
//
//   limits blocks=8 block_size=16 batch=260 sequences=4 context=4096   a new scheduler
//          [step=40] [unlearned]         max_step_seconds, of a fake forecast: a second per row, or
//                                        nothing
//          [batch_share=10] [background_share=25] [background_step=0]   the last in seconds
//   admit ID tokens=40 [generate=3] [prefill=40] [tile=32] [rows=8] [logits=0] [branches=1]
//            [batch] [background] [whole] [client=7] [deadline=5]   without generate: scores.
//            prefill defaults to the prompt of a generator and to 0 of a text, rows is
//            max_per_query_rows, logits is first_logit
//   time 5                                 the clock, in seconds
//   plan | commit [ID=TOKEN] [ID=stop]     commit makes up tokens for generators not named
//   run                                    plan and commit until there is nothing to do
//   cancel ID | state
#include "engine/scheduler/scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/support/second_per_row.h"
#include "tests/support/source_folder.h"

namespace kascade {
namespace {

// The words of a command line: flags, and key=value.
class Words {
 public:
  explicit Words(const std::string& line) : words_(absl::StrSplit(line, ' ', absl::SkipEmpty())) {}

  const std::string& operator[](size_t index) const { return words_.at(index); }
  bool has(const std::string& flag) const { return std::ranges::count(words_, flag) > 0; }
  int32_t get(const std::string& key, int32_t otherwise) const {
    for (const auto& [name, value] : pairs()) {
      if (name == key) return number(value);
    }
    return otherwise;
  }
  std::vector<std::pair<std::string, std::string>> pairs() const {
    std::vector<std::pair<std::string, std::string>> result;
    for (const std::string& word : words_) {
      const size_t equals = word.find('=');
      if (equals != word.npos) result.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    }
    return result;
  }
  static int32_t number(const std::string& text) {
    int32_t value = 0;
    EXPECT_TRUE(absl::SimpleAtoi(text, &value)) << text;
    return value;
  }

 private:
  std::vector<std::string> words_;
};

class Script {
 public:
  std::string run(const std::string& line) {
    const Words words(line);
    if (words[0] == "limits") return limits(words);
    if (words[0] == "admit") return admit(words);
    if (words[0] == "plan") return plan();
    if (words[0] == "commit") return commit(words);
    if (words[0] == "run") return run_all();
    if (words[0] == "state") return state();
    if (words[0] == "time") {
      now_ = absl::FromUnixSeconds(Words::number(words[1]));
      return "";
    }
    if (words[0] == "cancel") {
      scheduler_->cancel(static_cast<SeqId>(Words::number(words[1])));
      return "";
    }
    return absl::StrCat("unknown command ", words[0], "\n");
  }

 private:
  std::string limits(const Words& words) {
    scheduler_.reset();
    ids_.clear();
    blocks_ =
        std::make_unique<BlockAllocator>(words.get("blocks", 64), words.get("block_size", 16));
    const int32_t sequences = words.get("sequences", 4);
    const SchedulerLimits limits{
        .max_batch_tokens = words.get("batch", sequences + 256),
        .max_sequences = sequences,
        .context = words.get("context", 4096),
        .max_step_seconds = static_cast<double>(words.get("step", 0)),
        .batch_share = words.get("batch_share", 10),
        .background_share = words.get("background_share", 25),
        .max_background_step_seconds = static_cast<double>(words.get("background_step", 0))};
    predictor_.known = !words.has("unlearned");
    scheduler_ = std::make_unique<Scheduler>(limits, *blocks_, &predictor_);
    return "";
  }

  std::string admit(const Words& words) {
    const auto id = static_cast<SeqId>(Words::number(words[1]));
    const int32_t tokens = words.get("tokens", 1);
    const int32_t generate = words.get("generate", 0);
    SequenceSpec spec{.tokens = std::vector<Token>(static_cast<size_t>(tokens), 1),
                      .generates = generate > 0,
                      .max_tokens = tokens + generate,
                      .prefill_end = words.get("prefill", generate > 0 ? tokens : 0),
                      .query_tile = words.get("tile", 32),
                      .max_per_query_rows = words.get("rows", 0),
                      .first_logit = words.get("logits", 0),
                      .branches = words.get("branches", 1)};
    if (words.has("batch")) spec.priority = Priority::kBatch;
    if (words.has("background")) spec.priority = Priority::kBackground;
    spec.has_whole_chunks = words.has("whole");
    spec.client = absl::StrCat(words.get("client", 0));
    const int32_t deadline = words.get("deadline", 0);
    if (deadline > 0) spec.deadline = absl::FromUnixSeconds(deadline);
    const absl::Status status = scheduler_->admit(id, std::move(spec));
    if (!status.ok()) {
      return absl::StrCat(absl::StatusCodeToString(status.code()), ": ",
                          std::string(status.message()), "\n");
    }
    ids_.insert(id);
    return "";
  }

  std::set<SeqId> running() const {
    std::set<SeqId> result;
    for (SeqId id : ids_) {
      const Sequence* sequence = scheduler_->find(id);
      if (sequence != nullptr && sequence->running()) result.insert(id);
    }
    return result;
  }

  std::string plan() {
    const std::set<SeqId> before = running();
    plan_ = scheduler_->plan(now_);
    std::string out;
    for (const auto& sequence : plan_.expired) absl::StrAppend(&out, sequence->id, " expired\n");
    for (SeqId id : before) {
      const Sequence* sequence = scheduler_->find(id);
      if (sequence != nullptr && !sequence->running()) absl::StrAppend(&out, id, " preempted\n");
    }
    for (const Slice& slice : plan_.slices) absl::StrAppend(&out, text_of(slice));
    return plan_.empty() ? out + "nothing\n" : out;
  }

  std::string text_of(const Slice& slice) const {
    const int32_t end = slice.begin + slice.count;
    const int32_t first = std::max(slice.begin, slice.first_logit);
    std::string out = absl::StrCat(slice.seq);
    if (scheduler_->find(slice.seq)->spec.branches > 1) absl::StrAppend(&out, "/", slice.branch);
    absl::StrAppend(&out, " rows [", slice.begin, ", ", end, ")");
    if (first < end) absl::StrAppend(&out, " logits [", first, ", ", end, ")");
    return out + "\n";
  }

  std::string commit(const Words& words) {
    std::vector<Outcome> outcomes;
    for (const auto& [id, value] : words.pairs()) {
      const auto seq = static_cast<SeqId>(Words::number(id));
      outcomes.push_back(value == "stop" ? Outcome{.seq = seq, .finished = true}
                                         : Outcome{.seq = seq, .generated = Words::number(value)});
    }
    for (const Slice& slice : plan_.slices) {
      const Sequence* sequence = scheduler_->find(slice.seq);
      const bool named = std::ranges::count(outcomes, slice.seq, &Outcome::seq) > 0;
      if (sequence == nullptr || named || !sequence->spec.generates) continue;
      if (slice.begin + slice.count == sequence->feed_end()) {
        outcomes.push_back({.seq = slice.seq, .generated = 9});
      }
    }
    std::string out;
    for (const auto& sequence : scheduler_->commit(plan_, outcomes)) {
      absl::StrAppend(&out, sequence->id, " ended\n");
    }
    plan_ = {};
    return out;
  }

  // One line per step.
  std::string run_all() {
    std::string out;
    for (int32_t step = 1; step < 1000; ++step) {
      std::string done = plan();
      if (plan_.empty()) return out + done;
      done += commit(Words("commit"));
      done.pop_back();
      absl::StrAppend(&out, "step ", step, ": ", absl::StrReplaceAll(done, {{"\n", "; "}}), "\n");
    }
    return out + "no end\n";
  }

  std::string state() const {
    std::string out = absl::StrCat("free ", blocks_->free_blocks(), " of ", blocks_->total_blocks(),
                                   ", running ", scheduler_->running(), ", waiting ",
                                   scheduler_->waiting(), " (", scheduler_->waiting_tokens(),
                                   " tokens), preemptions ", scheduler_->preemptions(), "\n");
    for (SeqId id : ids_) {
      const Sequence* sequence = scheduler_->find(id);
      if (sequence == nullptr) continue;
      absl::StrAppend(&out, id, ": ", sequence->computed, " of ", sequence->feed_end(), " rows");
      for (const BlockTable& table : sequence->tables) {
        absl::StrAppend(&out, ", blocks {", absl::StrJoin(table.blocks(), " "), "}");
      }
      out += "\n";
    }
    return out;
  }

  std::unique_ptr<BlockAllocator> blocks_;
  SecondPerRow predictor_;
  std::unique_ptr<Scheduler> scheduler_;
  std::set<SeqId> ids_;  // ever admitted
  StepPlan plan_;
  absl::Time now_ = absl::UnixEpoch();
};

std::filesystem::path script_directory() { return source_folder() / "tests/golden/scheduler"; }

// The whole file again, with the output that the commands give now.
std::string replay(const std::string& text) {
  Script script;
  std::string result;
  std::string output;
  bool expected = false;  // inside a block's expected output, which is dropped
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(text, '\n'))) {
    if (expected && !line.empty()) continue;
    expected = line == "----";
    absl::StrAppend(&result, line, "\n");
    if (expected) {
      result += std::exchange(output, "");
    } else if (!line.empty() && line[0] != '#') {
      output += script.run(line);
    }
  }
  result.pop_back();  // of the piece after the last line break
  return result;
}

class SchedulerScript : public testing::TestWithParam<std::string> {};

TEST_P(SchedulerScript, PrintsWhatIsExpected) {
  const std::filesystem::path path = script_directory() / (GetParam() + ".txt");
  std::stringstream expected;
  expected << std::ifstream(path).rdbuf();
  const std::string actual = replay(expected.str());
  if (std::getenv("REWRITE") != nullptr) {
    std::ofstream(path) << actual;
  } else {
    EXPECT_EQ(actual, expected.str());
  }
}

std::vector<std::string> scripts() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(script_directory())) {
    if (entry.path().extension() == ".txt") names.push_back(entry.path().stem());
  }
  std::ranges::sort(names);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Golden, SchedulerScript, testing::ValuesIn(scripts()),
                         [](const auto& test) { return test.param; });

TEST(BlockTable, GivesBlocksBackWhenItDies) {
  BlockAllocator blocks(4, 16);
  {
    BlockTable table(blocks);
    EXPECT_TRUE(table.grow(33));
    EXPECT_EQ(table.blocks().size(), 3u);
    EXPECT_TRUE(table.grow(1));
    EXPECT_EQ(table.blocks().size(), 3u);
    EXPECT_FALSE(table.grow(65));
    EXPECT_EQ(blocks.free_blocks(), 1);
  }
  EXPECT_EQ(blocks.free_blocks(), 4);
}

TEST(BlockTable, MovesItsBlocks) {
  BlockAllocator blocks(4, 16);
  BlockTable first(blocks);
  ASSERT_TRUE(first.grow(20));
  BlockTable second(std::move(first));
  EXPECT_EQ(second.blocks().size(), 2u);
  BlockTable third(blocks);
  ASSERT_TRUE(third.grow(20));
  third = std::move(second);
  EXPECT_EQ(third.blocks().size(), 2u);
  EXPECT_EQ(blocks.free_blocks(), 2);
}

TEST(BlockAllocatorDeathTest, MustOutliveItsTables) {
  EXPECT_DEATH(
      {
        auto blocks = std::make_unique<BlockAllocator>(4, 16);
        BlockTable table(*blocks);
        table.grow(1);
        blocks.reset();
      },
      "check failed");
}

TEST(SchedulerDeathTest, RefusesMalformedSequences) {
  BlockAllocator blocks(4, 16);
  Scheduler scheduler({}, blocks);
  EXPECT_DEATH(scheduler.admit(1, {.tokens = {1}, .max_tokens = 1}).IgnoreError(), "check");
  EXPECT_DEATH(
      scheduler.admit(1, {.tokens = {1}, .generates = true, .max_tokens = 1}).IgnoreError(),
      "check");
  EXPECT_DEATH(Scheduler({.max_batch_tokens = 280, .max_sequences = 32}, blocks), "check");
}

}  // namespace
}  // namespace kascade
