#include "engine/scheduler/client_service.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

TEST(ClientService, CountsTokens) {
  ClientService service;
  service.enter("a");
  service.charge("a", 30);
  service.charge("a", 12);
  EXPECT_EQ(service.service("a"), 42);
  EXPECT_EQ(service.service("nobody"), 0);
}

TEST(ClientService, LiftsWhoComesToTheLeastServed) {
  ClientService service;
  service.enter("a");
  service.charge("a", 100);
  service.enter("b");
  EXPECT_EQ(service.service("b"), 100);
  service.charge("a", 50);
  service.enter("c");
  EXPECT_EQ(service.service("c"), 100) << "the least served is b";
}

TEST(ClientService, RemembersWhoHadMore) {
  ClientService service;
  service.enter("a");
  service.enter("b");
  service.charge("a", 100);
  service.leave("a");
  service.charge("b", 10);
  service.enter("a");
  EXPECT_EQ(service.service("a"), 100) << "going and coming back must not make it equal to b";
}

TEST(ClientService, ASecondSequenceChangesNothing) {
  ClientService service;
  service.enter("a");
  service.enter("b");
  service.charge("b", 70);
  service.enter("a");
  service.leave("a");
  EXPECT_EQ(service.service("a"), 0);
}

TEST(ClientService, BeginsAnewWhenAllAreGone) {
  ClientService service;
  service.enter("a");
  service.charge("a", 100);
  service.leave("a");
  EXPECT_EQ(service.remembered(), 0u);
  service.enter("a");
  EXPECT_EQ(service.service("a"), 0);
}

TEST(ClientService, RemembersABoundedNumber) {
  ClientService service;
  service.enter("present");
  for (int i = 0; i < 3000; ++i) {
    const std::string client = absl::StrCat(i);
    service.enter(client);
    service.charge(client, i + 1);
    service.leave(client);
  }
  EXPECT_EQ(service.remembered(), ClientService::kMostAbsent + 1);
  EXPECT_EQ(service.service("2999"), 3000) << "those that were served most are remembered";
}

}  // namespace
}  // namespace kascade
