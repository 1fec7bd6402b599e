// Tests what a load report tells. That it is sent is tested in tests/end_to_end, on the wire:
// gRPC's own client keeps it from the application.
#include "server/grpc/load_report.h"

#include <future>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/core_fixture.h"
#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace kascade::testing {
namespace {

using xds::data::orca::v3::OrcaLoadReport;

class LoadReportTest : public CoreTest {
 protected:
  OrcaLoadReport report() {
    OrcaLoadReport out;
    EXPECT_TRUE(out.ParseFromString(server::load_report(*context_)));
    return out;
  }
};

TEST_F(LoadReportTest, AnIdleServerReportsZeros) {
  const OrcaLoadReport idle = report();
  EXPECT_EQ(idle.utilization().at("kv_cache"), 0);
  EXPECT_EQ(idle.utilization().at("request_memory"), 0);
  EXPECT_EQ(idle.named_metrics().at("running"), 0);
  EXPECT_EQ(idle.named_metrics().at("waiting"), 0);
  EXPECT_EQ(idle.application_utilization(), 0);
}

TEST_F(LoadReportTest, ABusyServerReportsShares) {
  core::MemoryBudget::Reservation held(memory_);
  ASSERT_TRUE(held.resize(memory_.limit() / 4).ok());
  std::promise<void> reached, go_on;
  bool first = true;
  // The sink keeps the engine in its first step, after which one sequence runs.
  ASSERT_TRUE(
      engine_
          ->submit({.tokens = std::vector<Token>(40, 5), .task = Generate{.max_new_tokens = 3}},
                   [&](const Event&) {
                     if (!std::exchange(first, false)) return;
                     reached.set_value();
                     go_on.get_future().wait();
                   })
          .ok());
  reached.get_future().wait();
  const OrcaLoadReport busy = report();
  go_on.set_value();
  EXPECT_EQ(busy.named_metrics().at("running"), 1);
  EXPECT_EQ(busy.utilization().at("request_memory"), 0.25);
  EXPECT_GT(busy.utilization().at("kv_cache"), 0);
  EXPECT_LT(busy.utilization().at("kv_cache"), 1);
  EXPECT_GT(busy.application_utilization(), 0);
  engine_->drain(absl::Seconds(60));
}

}  // namespace
}  // namespace kascade::testing
