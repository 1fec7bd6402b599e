// Totals of several requests against those that the server computes for all their texts at once.
#include "client/rpc/score_totals.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/test_server.h"

namespace kascade::client {
namespace {

using testing::TestServer;

class ScoreTotalsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = std::make_unique<TestServer>(testing::server_options(testing::demo_model()));
    const std::string text = testing::read_file(testing::demo_model() / "evaluation.txt");
    // Of different lengths, the last ones short: errors and ratios must be weighted rightly.
    size_t begin = 0;
    for (const size_t size : {2500, 40, 900, 1300, 7, 300}) {
      texts_.push_back(text.substr(begin, size));
      begin += size;
    }
  }
  static void TearDownTestSuite() { server_ = nullptr; }

  struct Scored {
    v1::ScoreSummary total{};
    std::vector<std::vector<v1::ScoreTokens>> tokens{1};
  };
  static Scored score(v1::ScoreRequest request, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) request.add_inputs()->set_text(texts_[i]);
    Scored scored;
    const auto stream = testing::score(*server_, request);
    EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
    for (const auto& message : stream.messages) {
      if (message.has_tokens()) scored.tokens[0].push_back(message.tokens());
      if (message.has_total()) scored.total = message.total();
    }
    return scored;
  }
  // The totals of two requests combined, and that of one for all texts.
  static void expect_equal(const v1::ScoreRequest& request) {
    ScoreTotals totals((*server_)->engine().model().vocab);
    for (const auto& [begin, end] : {std::pair{0, 2}, {2, 5}, {5, 6}}) {
      const Scored part = score(request, begin, end);
      totals.add(part.total, part.tokens);
    }
    const v1::ScoreSummary combined = totals.total(), whole = score(request, 0, 6).total;
    expect_near(combined, whole, "");
  }
  // Every field of both, to rounding.
  static void expect_near(const google::protobuf::Message& a, const google::protobuf::Message& b,
                          const std::string& path) {
    const auto& descriptor = *a.GetDescriptor();
    for (int i = 0; i < descriptor.field_count(); ++i) {
      expect_near_field(a, b, *descriptor.field(i), path + "." + descriptor.field(i)->name());
    }
  }
  static void expect_near_field(const google::protobuf::Message& a,
                                const google::protobuf::Message& b,
                                const google::protobuf::FieldDescriptor& field,
                                const std::string& path) {
    using Field = google::protobuf::FieldDescriptor;
    const auto& left = *a.GetReflection();
    const auto& right = *b.GetReflection();
    if (field.is_repeated()) {
      ASSERT_EQ(left.FieldSize(a, &field), right.FieldSize(b, &field)) << path;
      if (field.cpp_type() != Field::CPPTYPE_MESSAGE) return;
      for (int i = 0; i < left.FieldSize(a, &field); ++i) {
        expect_near(left.GetRepeatedMessage(a, &field, i), right.GetRepeatedMessage(b, &field, i),
                    path);
      }
      return;
    }
    if (field.has_presence()) {
      ASSERT_EQ(left.HasField(a, &field), right.HasField(b, &field)) << path;
      if (!left.HasField(a, &field)) return;
    }
    if (field.cpp_type() == Field::CPPTYPE_MESSAGE) {
      expect_near(left.GetMessage(a, &field), right.GetMessage(b, &field), path);
    } else if (field.cpp_type() == Field::CPPTYPE_DOUBLE) {
      const double wanted = right.GetDouble(b, &field);
      EXPECT_NEAR(left.GetDouble(a, &field), wanted, 1e-6 * (1 + std::abs(wanted))) << path;
    } else if (field.cpp_type() == Field::CPPTYPE_INT64) {
      EXPECT_EQ(left.GetInt64(a, &field), right.GetInt64(b, &field)) << path;
    } else if (field.cpp_type() == Field::CPPTYPE_INT32) {
      EXPECT_EQ(left.GetInt32(a, &field), right.GetInt32(b, &field)) << path;
    } else if (field.cpp_type() == Field::CPPTYPE_BOOL) {
      EXPECT_EQ(left.GetBool(a, &field), right.GetBool(b, &field)) << path;
    } else if (field.cpp_type() == Field::CPPTYPE_ENUM) {
      EXPECT_EQ(left.GetEnumValue(a, &field), right.GetEnumValue(b, &field)) << path;
    } else {
      EXPECT_EQ(left.GetString(a, &field), right.GetString(b, &field)) << path;
    }
  }

  static std::unique_ptr<TestServer> server_;
  static std::vector<std::string> texts_;
};
std::unique_ptr<TestServer> ScoreTotalsTest::server_;
std::vector<std::string> ScoreTotalsTest::texts_;

TEST_F(ScoreTotalsTest, OfOneRun) { expect_equal({}); }

TEST_F(ScoreTotalsTest, OfASparseRunInWindows) {
  v1::ScoreRequest request;
  request.mutable_attention()->mutable_baseline()->set_kind(v1::BASELINE_KIND_ORACLE);
  request.mutable_attention()->mutable_baseline()->set_min_keys(16);
  request.set_protocol(v1::SCORE_PROTOCOL_STRIDED);
  request.set_window_tokens(300);
  expect_equal(request);
}

TEST_F(ScoreTotalsTest, OfAComparisonWithItsPercentiles) {
  v1::ScoreRequest request;
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  request.mutable_attention()->mutable_first()->mutable_baseline()->set_kind(
      v1::BASELINE_KIND_STREAMING);
  request.mutable_attention()->mutable_second()->mutable_baseline()->set_kind(
      v1::BASELINE_KIND_ORACLE);
  request.mutable_attention()->mutable_second()->mutable_baseline()->set_min_keys(16);
  request.mutable_response()->set_tokens(true);
  expect_equal(request);
}

// What is suspect in all is suspect, whatever the parts are.
TEST_F(ScoreTotalsTest, SuspectFollowsFromTheCombinedMean) {
  const auto part = [](double mean, int64_t tokens, bool suspect) {
    v1::ScoreSummary total;
    total.set_tokens_scored(tokens);
    total.set_mean_nll(mean);
    total.set_nll_sum(mean * static_cast<double>(tokens));
    total.set_suspect(suspect);
    if (suspect) total.add_suspect_causes("the text");
    return total;
  };
  ScoreTotals mostly_good(4096);  // suspect above 7.3 nats
  mostly_good.add(part(3, 1000, false), {});
  mostly_good.add(part(9, 100, true), {});
  EXPECT_FALSE(mostly_good.total().suspect());
  EXPECT_EQ(mostly_good.total().suspect_causes_size(), 0);
  ScoreTotals bad(4096);
  bad.add(part(3, 10, false), {});
  bad.add(part(9, 1000, true), {});
  EXPECT_TRUE(bad.total().suspect());
  EXPECT_EQ(bad.total().suspect_causes(0), "the text");
}

}  // namespace
}  // namespace kascade::client
