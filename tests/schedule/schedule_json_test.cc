// Tests the JSON of a schedule: exact round trip, the digest, and invalid texts.
#include <bit>
#include <cmath>
#include <random>

#include "engine/schedule/schedule.h"
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
using ::testing::Not;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

// The example's file with an empty id, so that a change of it is not refused as a stale id.
std::string unsealed_json() {
  Schedule schedule = example();
  schedule.schedule_id.clear();
  return to_json(schedule);
}

// The example with rows of its quality check.
Schedule with_rows() {
  Schedule schedule = example();
  schedule.quality.checked_tokens = 1024;
  schedule.quality.kinds = {{.kind = "code \"ä\"",
                             .windows = 2,
                             .tokens = 2048,
                             .dense_perplexity = 1.0 / 3,
                             .sparse_perplexity = 12.4,
                             .degradation_percent = -0.1,
                             .degradation_error_percent = 0.2,
                             .mean_kl = 1e-9,
                             .kl_99th_percentile = 0.7,
                             .same_top1 = 0.97,
                             .passed = true}};
  schedule.quality.retrieval = {{.prompt_tokens = 1024,
                                 .asked = 20,
                                 .dense_found = 19,
                                 .measurable = true,
                                 .sparse_found = 18,
                                 .lost = 2,
                                 .p_value = 0.5},
                                {.prompt_tokens = 2048, .asked = 8, .dense_found = 1}};
  schedule.schedule_id.clear();
  return schedule;
}

void expect_equal(const Schedule& a, const Schedule& b) {
  EXPECT_EQ(to_json(a), to_json(b));
  EXPECT_EQ(a.schedule_id, b.schedule_id);
  EXPECT_EQ(a.model, b.model);
  EXPECT_EQ(a.calibration, b.calibration);
  EXPECT_EQ(a.selection, b.selection);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t index = 0; index < a.layers.size(); ++index) {
    EXPECT_EQ(a.layers[index].head_map, b.layers[index].head_map);
    EXPECT_EQ(a.layers[index].similarity, b.layers[index].similarity);
    EXPECT_EQ(a.layers[index].importance, b.layers[index].importance);
    EXPECT_EQ(a.layers[index].reuse_cost, b.layers[index].reuse_cost);
  }
  EXPECT_EQ(a.quality.dense_perplexity, b.quality.dense_perplexity);
  EXPECT_EQ(a.quality.mean_kl, b.quality.mean_kl);
  EXPECT_EQ(a.quality.degradation_error_percent, b.quality.degradation_error_percent);
  EXPECT_EQ(a.quality.checked_tokens, b.quality.checked_tokens);
  EXPECT_EQ(a.quality.kinds, b.quality.kinds);
  EXPECT_EQ(a.quality.retrieval, b.quality.retrieval);
  EXPECT_EQ(a.quality.passed, b.quality.passed);
}

TEST(Json, RoundTripIsExact) {
  const auto parsed = parse_schedule(to_json(example()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  expect_equal(*parsed, example());
}

TEST(Json, RoundTripIsExactForRandomFigures) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    Schedule schedule = example();
    for (LayerSchedule& layer : schedule.layers) {
      layer.similarity = std::bit_cast<double>(random());
      if (!std::isfinite(layer.similarity)) layer.similarity = 0.5;
      layer.importance = std::ldexp(static_cast<double>(random()), -64);
    }
    seal(schedule);
    const auto parsed = parse_schedule(to_json(schedule));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    expect_equal(*parsed, schedule);
  }
}

TEST(Json, RowsOfTheQualityCheckAreKept) {
  Schedule schedule = with_rows();
  seal(schedule);
  EXPECT_NE(schedule.schedule_id, example().schedule_id);
  const auto parsed = parse_schedule(to_json(schedule));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  expect_equal(*parsed, schedule);
}

// So that files from before the check had rows keep their ids.
TEST(Json, RowsOfTheQualityCheckAreLeftOutWhereThereAreNone) {
  for (const char* key : {"checked_tokens", "kinds", "retrieval"}) {
    EXPECT_THAT(to_json(example()), Not(HasSubstr(key)));
  }
}

TEST(Json, RowsOfTheQualityCheckAreRefusedByName) {
  const auto refusal = [](const std::string& from, const std::string& to) {
    return message_of(parse_schedule(replaced(to_json(with_rows()), from, to)).status());
  };
  EXPECT_EQ(refusal("\"asked\":20,", ""), "missing key \"asked\" in quality.retrieval[0]");
  EXPECT_THAT(refusal("\"windows\":2,\"tokens\"", "\"windows\":\"2\",\"tokens\""),
              HasSubstr("quality.kinds[0].windows must be 32-bit integer"));
  std::string rows = "\"retrieval\":[{}";
  for (int i = 0; i < 64; ++i) rows += ",{}";
  EXPECT_EQ(refusal("\"retrieval\":[", rows + ","),
            "quality.retrieval must be at most 64 rows, is an array");
}

TEST(Json, HasTheDocumentedForm) {
  const std::string json = to_json(example());
  EXPECT_THAT(json, HasSubstr("{\n  \"format_version\": 1,\n  \"schedule_id\": \""));
  EXPECT_THAT(json, HasSubstr("\"selection\": {\"family\":\"kascade\",\"query_tile\":32,\"unit\":1,"
                              "\"ratio\":0.30000000000000004,\"top_k\":12,\"min_keys\":64,"
                              "\"pooling\":\"sum\",\"decode_own_tile\":false,\"sink_keys\":4}"));
  EXPECT_THAT(json, HasSubstr("    {\"role\":\"reuse\",\"anchor\":1,\"head_map\":[1,1],"
                              "\"similarity\":0.9123456789012345,\"importance\":0.0,"
                              "\"reason\":\"\"},\n"));
  Schedule tiles = example();
  tiles.selection = {.family = Family::kTile, .query_tile = 16, .top_k = 12};
  EXPECT_THAT(to_json(tiles), AllOf(HasSubstr("\"unit\":16"), HasSubstr("\"pooling\":\"max\"")));
}

TEST(Json, ExperimentsAreKeptAndLeftOutWhereThereAreNone) {
  const std::string plain = to_json(example());
  EXPECT_THAT(plain, Not(HasSubstr("all_heads")));
  EXPECT_THAT(plain, Not(HasSubstr("published_head_map_slip")));
  EXPECT_THAT(plain, Not(HasSubstr("weighted_by_loss")));
  EXPECT_THAT(plain, Not(HasSubstr("reuse_cost")));
  Schedule schedule = example();
  schedule.selection.pooling = ScorePooling::kMax;
  schedule.selection.all_heads = true;
  schedule.calibration.published_head_map_slip = true;
  schedule.calibration.uses_measured_costs = true;
  schedule.layers[2].reuse_cost = 0.1;
  seal(schedule);
  EXPECT_NE(schedule.schedule_id, example().schedule_id);
  const auto parsed = parse_schedule(to_json(schedule));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  expect_equal(*parsed, schedule);
}

// Files from before there was a mass have neither key.
TEST(Json, AMassIsKeptAndLeftOutWhereThereIsNone) {
  EXPECT_THAT(to_json(example()), AllOf(Not(HasSubstr("\"mass\"")), Not(HasSubstr("max_ratio"))));
  EXPECT_EQ(parse_schedule(to_json(example()))->selection.mass, 0);
  EXPECT_EQ(parse_schedule(to_json(example()))->selection.max_ratio, 1);
  EXPECT_EQ(example().schedule_id,
            "19487f2a6a99d5cfbf144aec8e52e574fee3391090192ad8db59420c24b8d9c0");
  Schedule schedule = example();
  schedule.selection.mass = 0.1 + 0.2;
  schedule.selection.max_ratio = 1.0 / 3;
  seal(schedule);
  EXPECT_NE(schedule.schedule_id, example().schedule_id);
  EXPECT_THAT(to_json(schedule), HasSubstr("\"min_keys\":64,\"mass\":0.30000000000000004,"
                                           "\"max_ratio\":0.3333333333333333,"));
  const auto parsed = parse_schedule(to_json(schedule));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  expect_equal(*parsed, schedule);
  const auto without_limit = parse_schedule(
      replaced(unsealed_json(), "\"min_keys\":64,", "\"min_keys\":64,\"mass\":0.9,"));
  ASSERT_TRUE(without_limit.ok()) << without_limit.status();
  EXPECT_EQ(without_limit->selection.max_ratio, 1);
  const auto text = parse_schedule(
      replaced(unsealed_json(), "\"min_keys\":64,", "\"min_keys\":64,\"mass\":\"most\","));
  EXPECT_EQ(message_of(text.status()), "selection.mass must be a number, is \"most\"");
}

TEST(Json, DenseBelowIsNamedWhereItIsSet) {
  EXPECT_THAT(to_json(example()), Not(HasSubstr("dense_below")));
  EXPECT_EQ(parse_schedule(to_json(example()))->selection.dense_below, 0);
  Schedule schedule = example();
  schedule.selection.dense_below = 1536;
  seal(schedule);
  EXPECT_NE(schedule.schedule_id, example().schedule_id);
  EXPECT_THAT(to_json(schedule), HasSubstr("\"dense_below\":1536"));
  const auto parsed = parse_schedule(to_json(schedule));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  expect_equal(*parsed, schedule);
}

TEST(Json, TheCopyOfTheKeysIsNamedWhereItIsUsed) {
  EXPECT_THAT(to_json(example()), Not(HasSubstr("int4_keys")));
  Schedule schedule = example();
  schedule.selection.int4_keys = true;
  seal(schedule);
  EXPECT_NE(schedule.schedule_id, example().schedule_id);
  const auto parsed = parse_schedule(to_json(schedule));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->selection.int4_keys);
}

TEST(Json, IdIsTheDigestOfTheRest) {
  const Schedule sealed = example();
  EXPECT_EQ(sealed.schedule_id.size(), 64u);
  Schedule changed = sealed;
  seal(changed);
  EXPECT_EQ(changed.schedule_id, sealed.schedule_id);
  changed.layers[2].similarity = std::nextafter(changed.layers[2].similarity, 1);
  seal(changed);
  EXPECT_NE(changed.schedule_id, sealed.schedule_id);

  const auto filled = parse_schedule(unsealed_json());
  ASSERT_TRUE(filled.ok()) << filled.status();
  EXPECT_EQ(filled->schedule_id, sealed.schedule_id);

  const auto edited = parse_schedule(replaced(to_json(sealed), "\"windows\":17", "\"windows\":18"));
  EXPECT_EQ(edited.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(message_of(edited.status()), HasSubstr("schedule_id is not the digest"));
}

TEST(Json, IdIsKnownFromOutside) {
  // printf '%s' CANONICAL | sha256sum, with the compact form of an empty schedule.
  Schedule schedule;
  seal(schedule);
  EXPECT_EQ(schedule.schedule_id,
            "51e7afe2c5a8b0892fcd7c28e4d2937f005f5d21788d44e90146220863508ca7");
}

TEST(Json, CalibrationAndQualityHaveDefaults) {
  const std::string json = unsealed_json();
  const auto cut = [&](const std::string& from, const char* key) {
    const size_t begin = from.find('{', from.find(key));
    const size_t end = from.rfind('}', from.find('\n', begin));
    return std::string(from).replace(begin, end - begin + 1, "{}");
  };
  const auto parsed = parse_schedule(cut(cut(json, "\"calibration\""), "\"quality\""));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->calibration, CalibrationRecord{});
  EXPECT_EQ(parsed->quality.phase, "row");
  EXPECT_EQ(parsed->quality.max_degradation_percent, 1.0);

  const auto partial = parse_schedule(replaced(json, "\"windows\":17,", ""));
  ASSERT_TRUE(partial.ok()) << partial.status();
  EXPECT_EQ(partial->calibration.windows, 0);
  EXPECT_EQ(partial->calibration.window_tokens, 2048);
}

TEST(Json, WhatWasAskedForIsKeptAndMayBeMissing) {
  EXPECT_THAT(to_json(example()),
              HasSubstr("\"requested\":{\"anchors\":2,\"dense_layers\":[3,1],"
                        "\"auto_dense_layers\":true,\"min_recall\":0.7000000000000001}"));
  Schedule old = example();  // the id that it had before the field existed
  old.calibration.requested.reset();
  seal(old);
  const std::string json = to_json(old);
  EXPECT_THAT(json, Not(HasSubstr("requested")));
  const auto parsed = parse_schedule(json);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->calibration.requested, std::nullopt);
}

TEST(Json, InvalidUtf8IsReplacedAndStillReadable) {
  Schedule schedule = example();
  schedule.layers[1].reason = "bad \xff byte";
  seal(schedule);
  const auto parsed = parse_schedule(to_json(schedule));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->schedule_id, schedule.schedule_id);
}

struct Edit {
  const char* from;
  const char* to;
  const char* message;
};

TEST(Json, RefusesEachEdit) {
  const Edit edits[] = {
      {"\"format_version\": 1", "\"format_version\": 2", "format_version must be 1, is 2"},
      {"\"format_version\": 1,", "", "missing key \"format_version\" in the schedule"},
      {"\"format_version\": 1,", "\"format_version\": 1, \"x\": 0,",
       "unknown key \"x\" in the schedule"},
      {"\"windows\":17", "\"window\":17", "unknown key \"window\" in calibration"},
      {"\"windows\":17", "\"windows\":1.5", "calibration.windows must be 32-bit integer, is 1.5"},
      {"\"windows\":17", "\"windows\":3000000000", "is 3000000000"},
      {"\"windows\":17", "\"windows\":-3000000000", "is -3000000000"},
      {"\"windows\":17", "\"windows\":99999999999999999999", "calibration.windows must be"},
      {"\"windows\":17", "\"windows\":true", "calibration.windows must be"},
      {"1099511627776", "18446744073709551615", "calibration.tokens must be 64-bit integer"},
      {"\"maker\":\"dp\"", "\"maker\":null", "calibration.maker must be a string, is null"},
      {"\"anchors\":2,", "", "missing key \"anchors\" in calibration.requested"},
      {"\"anchors\":2,", "\"anchors\":2,\"best\":1,",
       "unknown key \"best\" in calibration.requested"},
      {"\"dense_layers\":[3,1]", "\"dense_layers\":[3,0.5]",
       "calibration.requested.dense_layers[1] must be 32-bit integer, is 0.5"},
      {"\"requested\":{", "\"requested\":3,\"x\":{", "calibration.requested must be an object"},
      {"\"family\":\"kascade\"", "\"family\":\"best\"",
       "selection.family must be kascade or tile, is \"best\""},
      {"\"family\":\"kascade\"", "\"family\":3", "selection.family must be"},
      {"\"unit\":1", "\"unit\":32", "selection.unit must be 1, is 32"},
      {"\"pooling\":\"sum\"", "\"pooling\":\"mean\"",
       "selection.pooling must be sum or max, is \"mean\""},
      {"\"sink_keys\":4", "\"sink_keys\":4,\"all_heads\":1",
       "selection.all_heads must be true or false, is 1"},
      {"\"top_k\":12,", "", "missing key \"top_k\" in selection"},
      {"\"decode_own_tile\":false", "\"decode_own_tile\":0", "must be true or false, is 0"},
      {"\"role\":\"reuse\"", "\"role\":\"Reuse\"", "layers[2].role must be dense or anchor or"},
      {"\"head_map\":[1,1]", "\"head_map\":[1,\"1\"]", "layers[2].head_map[1] must be"},
      {"\"head_map\":[1,1]", "\"head_map\":{}", "layers[2].head_map must be an array"},
      {"\"head_map\":[1,1]", "\"head_map\":[[[[[[1]]]]]]", "nested deeper"},
      {"0.9123456789012345", "\"0.9\"", "layers[2].similarity must be a number, is \"0.9\""},
      {"0.9123456789012345", "1e999", "a number beyond any double at byte"},
      {"0.9123456789012345", "-1e999", "key \"similarity\""},
      {"0.9123456789012345", "NaN", "not valid JSON"},
      {"\"best set\"", "\"\xff\"", "not valid JSON"},
      {"\"passed\":true", "\"passed\":1", "quality.passed must be true or false, is 1"},
      {"\"passed\":true", "\"passed\":true,\"won\":1", "unknown key \"won\" in quality"},
  };
  for (const Edit& edit : edits) {
    const auto parsed = parse_schedule(replaced(unsealed_json(), edit.from, edit.to));
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << edit.to;
    EXPECT_THAT(message_of(parsed.status()), HasSubstr(edit.message)) << edit.to;
  }
}

TEST(Json, RefusesWhatIsNoSchedule) {
  const std::string deep(100'000, '[');
  const std::string long_key = "{\"" + std::string(100'000, 'k') + "\": 1}";
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("3"), std::string("null"),
        std::string("{}"), std::string("\0\0", 2), deep, long_key, to_json(example()) + "x",
        std::string(kMaxScheduleBytes + 1, ' ')}) {
    const auto parsed = parse_schedule(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_LT(parsed.status().message().size(), 300u);
  }
}

TEST(Json, BracketsInStringsAreNotNesting) {
  Schedule schedule = example();
  schedule.layers[1].reason = "\\\"[[[[[[[[[[{{{{{{{{{{";
  seal(schedule);
  EXPECT_TRUE(parse_schedule(to_json(schedule)).ok());
}

TEST(Json, MutatedBytesAreRefusedOrRead) {
  const std::string original = unsealed_json();
  std::mt19937_64 random(11);
  for (int round = 0; round < 2000; ++round) {
    std::string text = original;
    for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
      const size_t at = random() % text.size();
      const uint64_t kind = random() % 3;
      const char byte = static_cast<char>(random());
      if (kind == 0) text[at] = byte;
      if (kind == 1) text.insert(at, 1, "[]{}\",:-0e."[random() % 11]);
      if (kind == 2) text.erase(at, random() % 20);
    }
    const auto parsed = parse_schedule(text);
    if (!parsed.ok()) {
      ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    (void)validate(*parsed, kExampleShape);
    const auto again = parse_schedule(to_json(*parsed));
    ASSERT_TRUE(again.ok()) << again.status();
    ASSERT_EQ(again->schedule_id, parsed->schedule_id);
  }
}

}  // namespace
}  // namespace kascade
