// Tests that a server accepts every request that the quality suite can make, because one refusal
// would end the suite early.
#include <vector>

#include "client/eval/variants.h"
#include "engine/request.h"
#include "gtest/gtest.h"
#include "server/grpc/translate_attention.h"
#include "server/grpc/translate_calibration.h"

namespace kascade::client {
namespace {

void check(const Variant& variant, const ModelConfig& model) {
  if (variant.calibration) {
    const auto options = server::read_calibration_options(*variant.calibration, model);
    ASSERT_TRUE(options.ok()) << variant.label << ": " << options.status();
    const absl::Status valid = validate(*options, model);
    EXPECT_TRUE(valid.ok()) << variant.label << ": " << valid;
  }
  if (!variant.attention.has_baseline()) return;
  for (const auto mode : {v1::ATTENTION_MODE_COMPARE, v1::ATTENTION_MODE_SPARSE}) {
    v1::AttentionOptions attention = variant.attention;
    attention.set_mode(mode);
    const auto read = server::read_attention(attention, model.layers, /*may_compare=*/true);
    ASSERT_TRUE(read.ok()) << variant.label << ": " << read.status();
    const auto& source = read->compared_with ? read->compared_with : read->attention;
    ASSERT_TRUE(source.has_value()) << variant.label;
    const Request request{
        .tokens = {0, 0}, .task = Score{}, .attention = std::get<BaselineAttention>(*source)};
    const absl::Status valid =
        validate(request, {.vocab = 1, .context = 8, .layers = model.layers});
    EXPECT_TRUE(valid.ok()) << variant.label << ": " << valid;
  }
}

TEST(QualityRequestsTest, AreTakenByTheServer) {
  for (const int32_t layers : {4, 14, 32}) {
    const ModelConfig model{.layers = layers, .heads = 6, .kv_heads = 2, .context = 4096};
    const VariantOptions options{.layers = layers,
                                 .context = model.context,
                                 .default_anchors = layers - 2,
                                 .default_dense = {1, 2},
                                 .held_out = "held-out.txt",
                                 .others = {"other.txt"}};
    for (const Variant& variant : default_variants(options)) check(variant, model);
    for (const Variant& variant : other_variants(options)) {
      check(variant, model);
      if (variant.group == "greedy") check(dp_like(variant.label, layers), model);
    }
    for (const auto kind : {v1::BASELINE_KIND_STREAMING, v1::BASELINE_KIND_QUEST}) {
      check(reading_like("a row", kind, 0.0123), model);
    }
  }
}

}  // namespace
}  // namespace kascade::client
