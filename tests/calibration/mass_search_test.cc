// The search for the least share of the attention that passes, against trying all.
#include "engine/calibration/mass_search.h"

#include <cmath>
#include <functional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "engine/calibration/calibration.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

struct Found {
  std::optional<double> least{}, last_passed{};
  std::vector<double> asked{};
};

// The loss of a share, if `needed` has just the allowed one.
using Loss = std::function<double(double mass, double needed)>;

double proportional(double mass, double needed) {
  return needed < 1 ? (1 - mass) / (1 - needed) : 1e9;
}

Found search(double needed, double lowest = kLeastMass, const Loss& loss = proportional) {
  Found found;
  const auto least = least_passing_mass(lowest, [&](double mass) -> absl::StatusOr<MassCheck> {
    found.asked.push_back(mass);
    if (mass >= needed) found.last_passed = mass;
    return MassCheck{mass >= needed, loss(mass, needed)};
  });
  EXPECT_TRUE(least.ok());
  found.least = *least;
  return found;
}

TEST(LeastPassingMass, IsTheLeastOfThoseThatPass) {
  std::set<double> masses;
  for (double needed = 0.5; needed < 1; needed += 0.001) {
    for (const double mass : search(needed).asked) masses.insert(mass);
  }
  EXPECT_GE(masses.size(), 8u);
  for (const double mass : masses) {
    // What is needed just below a share, and just above it.
    EXPECT_EQ(search(mass - 1e-6).least, mass);
    const auto next = masses.upper_bound(mass);
    const Found above = search(mass + 1e-6);
    EXPECT_EQ(above.least, next == masses.end() ? std::nullopt : std::optional(*next));
    EXPECT_EQ(above.last_passed, above.least);
  }
}

TEST(LeastPassingMass, AsksForFewAndForTheUsualOneFirst) {
  for (double needed = 0.7; needed < 1.1; needed += 0.01) {
    const Found found = search(needed);
    EXPECT_EQ(found.asked.front(), kUsualMass);
    EXPECT_LE(found.asked.size(), 3u) << needed;
  }
}

TEST(LeastPassingMass, NeedsNoTrueLosses) {
  const Loss losses[] = {[](double, double) { return 0.0; },  // perplexity does not tell
                         [](double, double) { return 0.01; }, [](double, double) { return 50.0; },
                         [](double mass, double needed) { return mass >= needed ? 0.99 : 1.01; },
                         [](double, double) { return std::nan(""); }};
  for (const Loss& loss : losses) {
    for (double needed = 0.5; needed < 1.1; needed += 0.01) {
      const Found found = search(needed, kLeastMass, loss);
      EXPECT_EQ(found.least, search(needed).least) << needed;
      EXPECT_LE(found.asked.size(), 6u) << needed;
    }
  }
}

TEST(LeastPassingMass, AsksForNoneBelowTheLowest) {
  EXPECT_EQ(search(0.5, kUsualMass).least, kUsualMass);
  EXPECT_EQ(search(0.5, kUsualMass).asked, std::vector<double>{kUsualMass});
  EXPECT_EQ(search(0.96, kUsualMass).least, search(0.96).least);
  EXPECT_EQ(search(0.5, 0.9).least, 0.9);
}

TEST(LeastPassingMass, EndsWithTheFirstError) {
  int asked = 0;
  const auto least = least_passing_mass(kLeastMass, [&](double) -> absl::StatusOr<MassCheck> {
    ++asked;
    return absl::CancelledError("stop");
  });
  EXPECT_EQ(least.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(asked, 1);
}

}  // namespace
}  // namespace kascade
