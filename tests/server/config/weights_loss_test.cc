// Tests that a server states the loss of rounded weights that docs/quality has on record.
#include "server/weights_loss.h"

#include <cstdio>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/source_folder.h"

namespace kascade::server {
namespace {

using ::testing::HasSubstr;

std::string decimals(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

TEST(WeightsLoss, IsThatOfTheRecord) {
  std::ifstream file(source_folder() / "docs/quality/formats-smollm2-135m-instruct.json");
  const auto record = nlohmann::json::parse(file);
  int lines = 0;
  for (const auto& format : record.at("formats")) {
    const std::string line = weights_loss_line(format.at("weights").get<std::string>());
    if (line.empty()) continue;
    ++lines;
    EXPECT_THAT(line, HasSubstr("KL " + decimals("%.4f", format.at("mean_kl")) + " "));
    EXPECT_THAT(line, HasSubstr("ΔNLL " + decimals("%+.4f", format.at("nll_rise")) + " "));
    EXPECT_THAT(line, HasSubstr("kascade-convert --report"));
  }
  EXPECT_EQ(lines, 2);
}

TEST(WeightsLoss, IsOfInt8AndInt4Alone) {
  EXPECT_THAT(weights_loss_line("int8"), HasSubstr("weights int8: "));
  EXPECT_THAT(weights_loss_line("int4"), HasSubstr("weights int4: "));
  for (const char* other : {"f32", "bf16", "native"}) EXPECT_EQ(weights_loss_line(other), "");
}

}  // namespace
}  // namespace kascade::server
