// Tests how names of servers become the addresses of one channel, and which servers are the same.
#include "client/rpc/replicas.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(FindServer, TakesNumbersAndNames) {
  const auto ipv4 = find_server("127.0.0.1:50051");
  ASSERT_TRUE(ipv4.ok()) << ipv4.status();
  EXPECT_EQ(ipv4->host, "127.0.0.1");
  EXPECT_THAT(ipv4->ipv4, ElementsAre("127.0.0.1:50051"));
  EXPECT_THAT(ipv4->ipv6, IsEmpty());
  const auto ipv6 = find_server("[::1]:7");
  ASSERT_TRUE(ipv6.ok()) << ipv6.status();
  EXPECT_THAT(ipv6->ipv6, ElementsAre("[::1]:7"));
  const auto name = find_server("localhost:7");
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(name->host, "localhost");
  EXPECT_FALSE(name->ipv4.empty() && name->ipv6.empty());
}

TEST(FindServer, RefusesWhatIsNoHostAndPort) {
  for (const char* text : {"", "host", "host:", ":7", "127.0.0.1"}) {
    const auto found = find_server(text);
    EXPECT_TRUE(absl::IsInvalidArgument(found.status())) << text;
    EXPECT_THAT(std::string(found.status().message()), HasSubstr("expected HOST:PORT"));
  }
  EXPECT_TRUE(absl::IsNotFound(find_server("127.0.0.1:port").status()));
}

TEST(CommonTargets, AreInOneFamilyAndEachOnce) {
  const ServerName both{.host = "a", .ipv4 = {"10.0.0.1:1", "10.0.0.2:1"}, .ipv6 = {"[::1]:1"}};
  const ServerName old{.host = "b", .ipv4 = {"10.0.0.2:1", "10.0.0.3:1"}};
  const ServerName modern{.host = "c", .ipv6 = {"[::2]:1"}};
  EXPECT_THAT(*common_targets({both, old}),
              ElementsAre("ipv4:10.0.0.1:1", "ipv4:10.0.0.2:1", "ipv4:10.0.0.3:1"));
  EXPECT_THAT(*common_targets({both, modern}), ElementsAre("ipv6:[::1]:1", "ipv6:[::2]:1"));
  EXPECT_TRUE(absl::IsInvalidArgument(common_targets({old, modern}).status()));
}

TEST(CheckSame, NamesTheFirstDifference) {
  v1::GetModelInfoResponse first;
  first.mutable_model()->set_weights_digest("w");
  first.mutable_model()->set_tokenizer_digest("t");
  first.mutable_runtime()->set_cache_dtype("bf16");
  EXPECT_TRUE(check_same("a", first, "b", first).ok());
  v1::GetModelInfoResponse other = first;
  other.set_active_schedule_id("6b55");
  EXPECT_EQ(check_same("a", first, "b", other).message(),
            "--servers: the active schedule of a and b differ: none and 6b55");
  other.mutable_model()->set_tokenizer_digest("u");
  EXPECT_EQ(check_same("a", first, "b", other).message(),
            "--servers: the tokenizer of a and b differ: t and u");
  other.mutable_model()->set_weights_digest("x");
  EXPECT_TRUE(absl::IsFailedPrecondition(check_same("a", first, "b", other)));
  EXPECT_THAT(std::string(check_same("a", first, "b", other).message()), HasSubstr("the weights"));
}

}  // namespace
}  // namespace kascade::client
