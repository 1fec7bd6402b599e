// Tests the schedule as a value and as a file on disk. Its JSON is tested in schedule_json_test.cc,
// the planners in planners_test.cc.
#include "engine/schedule/schedule.h"

#include <unistd.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/schedule_example.h"

namespace kascade {
namespace {

using ::testing::AllOf;
using testing::example;
using ::testing::HasSubstr;
using testing::kExampleShape;
using testing::message_of;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "schedule_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  int64_t files() const { return std::distance(std::filesystem::directory_iterator(path_), {}); }

 private:
  std::filesystem::path path_;
};

std::string content(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

TEST(Schedule, AnswersQuestions) {
  const Schedule schedule = example();
  EXPECT_EQ(schedule.count(Role::kDense), 1);
  EXPECT_EQ(schedule.count(Role::kReuse), 2);
  EXPECT_EQ(schedule.reuse_layers_ratio(), 0.5);
  EXPECT_TRUE(schedule.selection_used(0));
  EXPECT_TRUE(schedule.selection_used(1));
  EXPECT_FALSE(schedule.selection_used(2));
  EXPECT_EQ(Schedule{}.reuse_layers_ratio(), 0);
}

TEST(Validate, AcceptsTheExampleAndTheDefaults) {
  EXPECT_EQ(validate(example(), kExampleShape), absl::OkStatus());
  EXPECT_EQ(validate(SelectionSettings{}), absl::OkStatus());
  EXPECT_EQ(validate(SelectionSettings{.family = Family::kTile, .query_tile = 16}),
            absl::OkStatus());
  EXPECT_EQ(validate(SelectionSettings{.mass = 1, .max_ratio = 1e-9}), absl::OkStatus());
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Fault {
  const char* name;
  std::function<void(Schedule&)> make;
  const char* message;
};

void expect_refused(const std::vector<Fault>& faults) {
  for (const Fault& fault : faults) {
    Schedule schedule = example();
    fault.make(schedule);
    const absl::Status status = validate(schedule, kExampleShape);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << fault.name;
    EXPECT_THAT(message_of(status), HasSubstr(fault.message)) << fault.name;
  }
}

TEST(Validate, RefusesEachFaultOfTheRule) {
  expect_refused({
      {"tile 0", [](Schedule& s) { s.selection.query_tile = 0; },
       "selection.query_tile must be in [1, 128], is 0"},
      {"tile 129", [](Schedule& s) { s.selection.query_tile = 129; }, "[1, 128], is 129"},
      {"ratio 0", [](Schedule& s) { s.selection.ratio = 0; },
       "selection.ratio must be in (0, 1], is 0"},
      {"ratio 1.5", [](Schedule& s) { s.selection.ratio = 1.5; }, "(0, 1], is 1.5"},
      {"ratio nan", [](Schedule& s) { s.selection.ratio = kNan; }, "(0, 1], is nan"},
      {"min_keys", [](Schedule& s) { s.selection.min_keys = -1; }, "selection.min_keys"},
      {"no key at all", [](Schedule& s) { s.selection.min_keys = 0; },
       "selection.min_keys must be in [1, "},
      {"top_k", [](Schedule& s) { s.selection.top_k = 0; }, "selection.top_k must be in [1, "},
      {"sink_keys", [](Schedule& s) { s.selection.sink_keys = -1; }, "selection.sink_keys"},
      {"dense_below", [](Schedule& s) { s.selection.dense_below = -1; },
       "selection.dense_below must be in [0, 1073741824], is -1"},
      {"tile family, paper decode", [](Schedule& s) { s.selection.family = Family::kTile; },
       "selection.decode_own_tile must be true for family tile, is false"},
      {"tile family, sinks",
       [](Schedule& s) { s.selection = {.family = Family::kTile, .sink_keys = 3}; },
       "selection.sink_keys must be 0 for family tile, is 3"},
      {"mass 1.5", [](Schedule& s) { s.selection.mass = 1.5; },
       "selection.mass must be in (0, 1], or 0 for a fixed ratio, is 1.5"},
      {"mass < 0", [](Schedule& s) { s.selection.mass = -0.1; },
       "selection.mass must be in (0, 1]"},
      {"mass nan", [](Schedule& s) { s.selection.mass = kNan; }, "is nan"},
      {"max_ratio 0", [](Schedule& s) { s.selection.mass = 0.9, s.selection.max_ratio = 0; },
       "selection.max_ratio must be in (0, 1], is 0"},
      {"max_ratio 2", [](Schedule& s) { s.selection.mass = 0.9, s.selection.max_ratio = 2; },
       "selection.max_ratio must be in (0, 1], is 2"},
      {"max_ratio nan", [](Schedule& s) { s.selection.mass = 0.9, s.selection.max_ratio = kNan; },
       "selection.max_ratio must be in (0, 1], is nan"},
      {"max_ratio alone", [](Schedule& s) { s.selection.max_ratio = 0.5; },
       "selection.max_ratio must be 1 without mass, is 0.5"},
      {"tile family, mass",
       [](Schedule& s) { s.selection = {.family = Family::kTile, .mass = 0.9}; },
       "selection.mass must be 0 for family tile, is 0.9"},
      {"all_heads", [](Schedule& s) { s.selection = {.family = Family::kTile, .all_heads = true}; },
       "selection.all_heads must be false for family tile, is true"},
  });
}

TEST(Validate, RefusesEachFaultOfTheLayers) {
  expect_refused({
      {"no layers", [](Schedule& s) { s.layers.clear(); }, "layers must be of 4 layers"},
      {"few layers", [](Schedule& s) { s.layers.pop_back(); }, "is of 3"},
      {"layer 0", [](Schedule& s) { s.layers[0].role = Role::kAnchor; },
       "layers[0].role must be dense, is anchor"},
      {"anchor's anchor", [](Schedule& s) { s.layers[1].anchor = 0; },
       "layers[1].anchor must be 1"},
      {"own selection", [](Schedule& s) { s.layers[2].anchor = 2; },
       "layers[2].anchor must be in [0, 1], is 2"},
      {"later anchor", [](Schedule& s) { s.layers[2].anchor = 3; }, "layers[2].anchor"},
      {"negative anchor", [](Schedule& s) { s.layers[3].anchor = -1; }, "layers[3].anchor"},
      {"reuse of reuse", [](Schedule& s) { s.layers[3].anchor = 2; },
       "layers[3].anchor must be a layer that selects (dense or anchor), is 2, a reuse layer"},
      {"short map", [](Schedule& s) { s.layers[3].head_map.pop_back(); },
       "layers[3].head_map must be of 2 KV heads, is of 1"},
      {"empty map", [](Schedule& s) { s.layers[0].head_map.clear(); }, "layers[0].head_map"},
      {"map too high", [](Schedule& s) { s.layers[2].head_map[1] = 2; },
       "layers[2].head_map[1] must be in [0, 1], is 2"},
      {"map negative", [](Schedule& s) { s.layers[2].head_map[0] = -1; }, "layers[2].head_map[0]"},
      {"anchor with a map", [](Schedule& s) { s.layers[1].head_map = {1, 1}; },
       "layers[1].head_map[0] must be 0 (only reuse layers map heads), is 1"},
      {"similarity", [](Schedule& s) { s.layers[2].similarity = 1.01; },
       "layers[2].similarity must be in [0, 1], is 1.01"},
      {"similarity nan", [](Schedule& s) { s.layers[2].similarity = kNan; }, "is nan"},
      {"importance", [](Schedule& s) { s.layers[1].importance = -0.5; },
       "layers[1].importance must be in [0, 2], is -0.5"},
      {"reuse cost", [](Schedule& s) { s.layers[2].reuse_cost = -0.5; },
       "layers[2].reuse_cost must be in [0, "},
  });
}

TEST(CheckModel, ComparesDigestsAndNotNames) {
  const Schedule schedule = example();
  EXPECT_EQ(check_model(schedule, {"other", "aa11", "bb22", "cc33"}), absl::OkStatus());
  EXPECT_EQ(check_model(schedule, {}), absl::OkStatus());  // nothing is known of that model
}

TEST(CheckModel, RefusesAScheduleWithoutDigests) {
  const ModelIdentity model = example().model;
  const std::pair<std::string ModelIdentity::*, const char*> fields[] = {
      {&ModelIdentity::weights_digest, "model.weights_digest must be aa11"},
      {&ModelIdentity::config_digest, "model.config_digest must be bb22"},
      {&ModelIdentity::tokenizer_digest, "model.tokenizer_digest must be cc33"}};
  for (const auto& [field, message] : fields) {
    Schedule schedule = example();
    (schedule.model.*field).clear();
    const absl::Status status = check_model(schedule, model);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(message_of(status), AllOf(HasSubstr(message), HasSubstr("is none")));
  }
  EXPECT_FALSE(check_model(Schedule{}, model).ok());
}

TEST(CheckModel, NamesBothSides) {
  Schedule schedule = example();
  schedule.model.name = "demo";
  const std::pair<ModelIdentity, const char*> others[] = {{{"x", "99", "bb22", "cc33"}, "weights"},
                                                          {{"x", "aa11", "99", "cc33"}, "config"},
                                                          {{"x", "", "", "99"}, "tokenizer"}};
  for (const auto& [model, what] : others) {
    const absl::Status status = check_model(schedule, model);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(message_of(status),
                AllOf(HasSubstr(what), HasSubstr("\"demo\""), HasSubstr("\"x\""), HasSubstr("99")));
  }
}

TEST(File, SavesAndLoads) {
  const TemporaryDirectory directory;
  const auto file = directory / "schedule.json";
  ASSERT_EQ(save_schedule(example(), file), absl::OkStatus());
  const auto loaded = load_schedule(file);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(to_json(*loaded), to_json(example()));
  EXPECT_EQ(directory.files(), 1);
}

TEST(File, ReplacesAnExistingFile) {
  const TemporaryDirectory directory;
  const auto file = directory / "schedule.json";
  std::ofstream(file) << "old";
  ASSERT_EQ(save_schedule(example(), file), absl::OkStatus());
  EXPECT_EQ(content(file), to_json(example()));
  EXPECT_EQ(directory.files(), 1);
}

TEST(File, MissingDirectoryIsAnErrorThatNamesTheFile) {
  const TemporaryDirectory directory;
  const auto file = directory / "missing/schedule.json";
  const absl::Status status = save_schedule(example(), file);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(message_of(status), HasSubstr(file.string()));
  EXPECT_EQ(directory.files(), 0);
}

TEST(File, FailedReplacementLeavesNothingBehind) {
  const TemporaryDirectory directory;
  const auto file = directory / "schedule.json";
  std::filesystem::create_directories(file / "in_the_way");
  const absl::Status status = save_schedule(example(), file);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(message_of(status), HasSubstr(file.string()));
  EXPECT_EQ(directory.files(), 1);
}

TEST(File, NeverWritesWhatItWouldNotRead) {
  const TemporaryDirectory directory;
  const auto file = directory / "schedule.json";
  for (const double figure : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Schedule schedule = example();
    schedule.quality.sparse_perplexity = figure;
    seal(schedule);
    const absl::Status status = save_schedule(schedule, file);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(message_of(status), HasSubstr("quality.sparse_perplexity must be a number"));
  }
  Schedule stale = example();
  stale.created_at = "";
  EXPECT_THAT(message_of(save_schedule(stale, file)), HasSubstr("schedule_id"));
  EXPECT_EQ(directory.files(), 0);
}

TEST(File, LoadingNamesTheFile) {
  const TemporaryDirectory directory;
  const auto file = directory / "schedule.json";
  const absl::Status missing = load_schedule(file).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(message_of(missing), HasSubstr(file.string()));
  EXPECT_EQ(load_schedule(directory / "").status().code(), absl::StatusCode::kInvalidArgument);
  std::ofstream(file) << "{}";
  const absl::Status wrong = load_schedule(file).status();
  EXPECT_EQ(wrong.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(message_of(wrong), AllOf(HasSubstr(file.string()), HasSubstr("format_version")));
}

}  // namespace
}  // namespace kascade
