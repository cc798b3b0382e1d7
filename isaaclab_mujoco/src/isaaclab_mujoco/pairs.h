// Collision detection for models of few simple shapes: a list of all pairs of shapes that can touch, tested in every step. MuJoCo
// sorts the bodies by position first, which takes longer for few shapes. The contacts equal those of mj_collision bit for bit, in its
// order: filters, mixing of surfaces and frames follow MuJoCo (mj_collision, mju_makeFrame; Copyright 2021 DeepMind Technologies
// Limited, Apache-2.0; see THIRD_PARTY.md).
#include <cstring>
#include <vector>

#include <mujoco/mujoco.h>

namespace {

class Pairs {
 public:
  // `is_usable` is false, so that MuJoCo searches itself, if a pair of shapes needs MuJoCo's memory for general convex shapes, if the
  // model names pairs explicitly, or if there are so many pairs that sorting pays.
  explicit Pairs(const mjModel *m) {
    if (m->nflex || m->npair || mjcb_contactfilter || (m->opt.enableflags & mjENBL_OVERRIDE)) return;
    for (int one = 0; one < m->nbody; one++)
      for (int two = one + 1; two < m->nbody; two++)
        if (may_push(m, one, two) && !add(m, one, two)) return;
    is_usable = pairs.size() <= most;
  }

  // Does the work of mj_collision. Returns the number of contacts that MuJoCo's memory could not hold.
  int collide(const mjModel *m, mjData *d) const {
    int lost = 0;
    for (const Pair &pair : pairs) {
      const int one = pair.one, two = pair.two;
      const mjtNum margin = m->geom_margin[one] + m->geom_margin[two], reach = margin + (m->geom_gap[one] + m->geom_gap[two]);
      if (is_far(m, d, one, two, reach)) continue;
      mjPreContact touching[mjMAXCONPAIR];
      const int count = mjCOLLISIONFUNC[m->geom_type[one]][m->geom_type[two]](m, d, touching, one, two, reach);
      if (!count) continue;
      mjContact contact;
      std::memset(&contact, 0, sizeof contact);
      mix(m, one, two, contact);
      contact.includemargin = margin;
      contact.geom1 = contact.geom[0] = one;
      contact.geom2 = contact.geom[1] = two;
      for (int side = 0; side < 2; side++) contact.flex[side] = contact.elem[side] = contact.vert[side] = -1;
      contact.efc_address = -1;
      for (int i = 0; i < count; i++) {
        contact.dist = touching[i].dist;
        std::memcpy(contact.pos, touching[i].pos, sizeof contact.pos);
        std::memcpy(contact.frame, touching[i].normal, sizeof touching[i].normal);
        std::memcpy(contact.frame + 3, touching[i].tangent, sizeof touching[i].tangent);
        complete(contact.frame);
        contact.exclude = contact.dist >= margin;
        lost += mj_addContact(m, d, &contact);
      }
    }
    return lost;
  }

  bool is_usable = false;

 private:
  struct Pair { int one, two; };
  static constexpr size_t most = 400;
  std::vector<Pair> pairs;

  // Returns whether two bodies can push each other, by the filters of MuJoCo's search.
  static bool may_push(const mjModel *m, int one, int two) {
    const int weld[2] = {m->body_weldid[one], m->body_weldid[two]};
    if (weld[0] == weld[1] || (!m->body_dofnum[weld[0]] && !m->body_dofnum[weld[1]])) return false;
    const bool is_parent = weld[0] == m->body_weldid[m->body_parentid[weld[1]]] || weld[1] == m->body_weldid[m->body_parentid[weld[0]]];
    if (is_parent && weld[0] && weld[1] && !(m->opt.disableflags & mjDSBL_FILTERPARENT)) return false;
    for (int i = 0; i < m->nexclude; i++)
      if (m->exclude_signature[i] == (one << 16) + two) return false;
    return true;
  }

  // Lists the pairs of shapes of two bodies. Returns whether all are simple.
  bool add(const mjModel *m, int one, int two) {
    for (int a = m->body_geomadr[one]; a < m->body_geomadr[one] + m->body_geomnum[one]; a++)
      for (int b = m->body_geomadr[two]; b < m->body_geomadr[two] + m->body_geomnum[two]; b++) {
        if (!(m->geom_contype[a] & m->geom_conaffinity[b]) && !(m->geom_contype[b] & m->geom_conaffinity[a])) continue;
        const bool swaps = m->geom_type[a] > m->geom_type[b];
        const Pair pair = swaps ? Pair{b, a} : Pair{a, b};
        const int type = m->geom_type[pair.one], other = m->geom_type[pair.two];
        if (m->geom_adhesion[a] || m->geom_adhesion[b]) return false;
        if (!mjCOLLISIONFUNC[type][other]) continue;
        const bool is_round = type == mjGEOM_SPHERE || type == mjGEOM_CAPSULE;
        const bool is_simple = (type == mjGEOM_PLANE && other != mjGEOM_SDF && other != mjGEOM_MESH) ||
                               (is_round && (other == mjGEOM_SPHERE || other == mjGEOM_CAPSULE || other == mjGEOM_BOX)) ||
                               (type == mjGEOM_SPHERE && other == mjGEOM_CYLINDER) || (type == mjGEOM_BOX && other == mjGEOM_BOX);
        if (!is_simple) return false;
        pairs.push_back(pair);
      }
    return true;
  }

  // Returns whether the bounding spheres of two shapes are farther apart than `reach`. A plane has no sphere and comes first.
  static bool is_far(const mjModel *m, const mjData *d, int one, int two, mjtNum reach) {
    const mjtNum *p = d->geom_xpos + 3 * one, *q = d->geom_xpos + 3 * two;
    if (m->geom_rbound[one] > 0 && m->geom_rbound[two] > 0) {
      const mjtNum bound = m->geom_rbound[one] + m->geom_rbound[two] + reach;
      const mjtNum x = p[0] - q[0], y = p[1] - q[1], z = p[2] - q[2];
      return x * x + y * y + z * z > bound * bound;
    }
    if (m->geom_type[one] != mjGEOM_PLANE || !(m->geom_rbound[two] > 0)) return false;
    const mjtNum *turn = d->geom_xmat + 9 * one;
    return (q[0] - p[0]) * turn[2] + (q[1] - p[1]) * turn[5] + (q[2] - p[2]) * turn[8] > reach + m->geom_rbound[two];
  }

  // Completes a contact's frame from its normal and its preferred second axis.
  static void complete(mjtNum *frame) {
    mju_normalize3(frame);
    if (mju_dot3(frame + 3, frame + 3) < 0.25) {
      const int is_y = frame[1] < 0.5 && frame[1] > -0.5;
      frame[3] = 0;
      frame[4] = is_y;
      frame[5] = !is_y;
    }
    const mjtNum along = mju_dot3(frame, frame + 3);
    for (int i = 0; i < 3; i++) frame[3 + i] -= frame[i] * along;
    mju_normalize3(frame + 3);
    mju_cross(frame + 6, frame, frame + 3);
  }

  // Computes a contact's friction, stiffness and dimension from those of its shapes.
  static void mix(const mjModel *m, int one, int two, mjContact &contact) {
    const int ahead = m->geom_priority[one] - m->geom_priority[two];
    const mjtNum *ref[2] = {m->geom_solref + mjNREF * one, m->geom_solref + mjNREF * two};
    const mjtNum *imp[2] = {m->geom_solimp + mjNIMP * one, m->geom_solimp + mjNIMP * two};
    const mjtNum *rub[2] = {m->geom_friction + 3 * one, m->geom_friction + 3 * two};
    mjtNum friction[3];
    if (ahead) {
      const int winner = ahead > 0 ? 0 : 1;
      contact.dim = m->geom_condim[winner ? two : one];
      std::memcpy(contact.solref, ref[winner], sizeof contact.solref);
      std::memcpy(contact.solimp, imp[winner], sizeof contact.solimp);
      std::memcpy(friction, rub[winner], sizeof friction);
    } else {
      contact.dim = m->geom_condim[one] > m->geom_condim[two] ? m->geom_condim[one] : m->geom_condim[two];
      const mjtNum a = m->geom_solmix[one], b = m->geom_solmix[two];
      const mjtNum mix = a >= mjMINVAL && b >= mjMINVAL ? a / (a + b) : a < mjMINVAL && b < mjMINVAL ? 0.5 : a < mjMINVAL ? 0.0 : 1.0;
      const bool is_direct = !(ref[0][0] > 0 && ref[1][0] > 0);
      for (int i = 0; i < mjNREF; i++)
        contact.solref[i] = is_direct ? mju_min(ref[0][i], ref[1][i]) : mix * ref[0][i] + (1 - mix) * ref[1][i];
      for (int i = 0; i < mjNIMP; i++) contact.solimp[i] = mix * imp[0][i] + (1 - mix) * imp[1][i];
      for (int i = 0; i < 3; i++) friction[i] = mju_max(rub[0][i], rub[1][i]);
    }
    const int from[5] = {0, 0, 1, 2, 2};
    for (int i = 0; i < 5; i++) contact.friction[i] = mju_max(mjMINMU, friction[from[i]]);
  }
};

}  // namespace
